"""Real builds by TensorRT-RTX, which needs no GPU for them, and the facts about it that the code stands on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import engine_graphs as graphs
import numpy as np
import onnx
import pytest

from mmtrt.artifacts import file_digest
from mmtrt.engine import manifest
from mmtrt.engine.build import BuildOptions, EngineBuild, build_engine, int8_kept
from mmtrt.engine.flavours import gpu, probe
from mmtrt.engine.inspect import inspect_engine
from mmtrt.engine.layers import parse_layers, summarise
from mmtrt.errors import BuildError, MachineError, ModelError, UsageError
from mmtrt.runtimes.tensorrt import TensorRTRunner
from mmtrt.runtimes.tensorrt_api import import_flavour, listening, logger_of
from mmtrt.tensors import ShapeRange

rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
without_gpu = pytest.mark.skipif(gpu() is not None, reason="this machine has a GPU")


def rows(*rest: int, sizes: tuple[int, int, int] = (1, 2, 4)) -> ShapeRange:
    low, usual, high = ((size, *rest) for size in sizes)
    return ShapeRange(min=low, opt=usual, max=high)


def make(onnx_path: Path, profile: dict[str, ShapeRange], **options: Any) -> EngineBuild:
    settings = BuildOptions(**{"flavor": "tensorrt-rtx", **options})
    return build_engine(onnx_path, onnx_path.with_suffix(".engine"), profile=profile, options=settings)


def test_an_engine_is_built_with_no_gpu_and_says_so(tmp_path: Path) -> None:
    built = make(graphs.mlp(tmp_path / "mlp.onnx"), {"x": rows(16)})
    info = inspect_engine(built.engine)
    assert (info.flavor, info.engine_bytes) == ("tensorrt-rtx", built.engine_bytes)
    assert built.flavor_version == probe("tensorrt-rtx").version == rtx.__version__
    assert built.gpu == gpu()
    assert built.build_s > 0
    assert built.notes == ()
    assert built.inputs[0].shape == ("batch", 16)
    written = manifest.write(built, onnx_digest=file_digest(tmp_path / "mlp.onnx"), precision="fp32")
    assert manifest.verify(built.engine) == written
    assert written.ran is False


def test_float_layers_are_told_with_their_nodes(tmp_path: Path) -> None:
    built = make(graphs.mlp(tmp_path / "mlp.onnx"), {"x": rows(16)})
    assert built.layers is not None
    assert built.summary is not None
    assert int8_kept(built) == 0
    assert built.summary.gemm == {"fp32": 2}
    assert {node for layer in built.layers for node in layer.nodes} >= {"/fc1/MatMul", "/fc2/MatMul", "/act/Relu"}


def test_int8_is_kept_in_convolutions_and_products(tmp_path: Path) -> None:
    built = make(graphs.conv_int8(tmp_path / "conv.onnx"), {"x": rows(4, 16, 16)})
    assert built.summary is not None
    assert int8_kept(built) == 2
    assert (built.summary.conv, built.summary.gemm) == ({"int8": 1}, {"int8": 1})


def test_fp16_is_kept(tmp_path: Path) -> None:
    built = make(graphs.mlp(tmp_path / "mlp.onnx", dtype=np.float16), {"x": rows(16)})
    assert built.summary is not None
    assert built.summary.gemm == {"fp16": 2}
    assert built.inputs[0].dtype == "float16"


def test_int8_is_not_kept_in_transposed_convolutions(tmp_path: Path) -> None:
    built = make(graphs.deconv_int8(tmp_path / "up.onnx"), {"x": rows(16, 8, 8)})
    assert built.summary is not None
    assert built.summary.conv == {"fp32": 1}


def test_weight_only_int8_is_not_kept(tmp_path: Path) -> None:
    assert int8_kept(make(graphs.weight_only(tmp_path / "w.onnx"), {"x": rows(64)})) == 0


def test_dynamic_inputs_share_sizes(tmp_path: Path) -> None:
    profile = {"ids": ShapeRange(min=(1, 1), opt=(2, 4), max=(4, 8)), "image": rows(16)}
    built = make(graphs.tokens(tmp_path / "tokens.onnx"), profile)
    assert [(t.name, t.dtype, t.shape) for t in built.inputs] == [
        ("ids", "int64", ("batch", "tokens")),
        ("image", "float32", ("batch", 16)),
    ]
    assert built.profile == profile


def test_a_static_model_needs_no_profile(tmp_path: Path) -> None:
    built = make(graphs.mlp(tmp_path / "mlp.onnx", batch=2), {})
    assert built.profile == {"x": ShapeRange(min=(2, 16), opt=(2, 16), max=(2, 16))}


def test_weights_beside_the_file_are_found(tmp_path: Path) -> None:
    path = graphs.mlp(tmp_path / "mlp.onnx")
    onnx.save(onnx.load(str(path)), str(path), save_as_external_data=True, location="mlp.data", size_threshold=0)
    assert make(path, {"x": rows(16)}).engine.is_file()


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ({}, "'x' has dynamic axes"),
        ({"x": rows(16, sizes=(4, 2, 1))}, "'x', axis 0"),
        ({"x": rows(17)}, "'x', axis 1: the model fixes 16"),
        ({"x": rows(16, 1)}, "'x' has 2 axes"),
        ({"xx": rows(16)}, "names 'xx'"),
    ],
)
def test_a_profile_that_does_not_fit_is_refused_before_building(tmp_path: Path, profile: Any, words: str) -> None:
    path = graphs.mlp(tmp_path / "mlp.onnx")
    with pytest.raises(UsageError, match=words):
        make(path, profile)
    assert list(tmp_path.iterdir()) == [path]


def test_an_unknown_operator_names_the_node_and_its_module(tmp_path: Path) -> None:
    path = graphs.mlp(tmp_path / "odd.onnx", activation="Weird")
    with pytest.raises(BuildError) as caught:
        build_engine(
            path,
            tmp_path / "odd.engine",
            profile={"x": rows(16)},
            options=BuildOptions(flavor="tensorrt-rtx"),
            explain=lambda node: f"module {node.split('/')[1]}",
        )
    assert "/act/Weird (Weird), from module act: Plugin not found" in str(caught.value)
    assert caught.value.exit_code == 5


def test_a_file_that_is_no_onnx(tmp_path: Path) -> None:
    trash = tmp_path / "trash.onnx"
    trash.write_bytes(b"hello" * 100)
    with pytest.raises(ModelError, match="holds no graph"):
        make(trash, {})
    whole = graphs.mlp(tmp_path / "mlp.onnx").read_bytes()
    trash.write_bytes(whole[: len(whole) // 2])
    with pytest.raises((ModelError, BuildError)):
        make(trash, {"x": rows(16)})
    assert not (tmp_path / "trash.engine").exists()


def test_an_input_that_gives_shapes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="'shape' gives shapes"):
        make(graphs.reshape_by_input(tmp_path / "r.onnx"), {})


@pytest.mark.parametrize("faults", [{"zero_point": 3}, {"int32_bias": "yes"}, {"scale": 0.0}])
def test_what_the_parser_refuses_of_quantised_models(tmp_path: Path, faults: Any) -> None:
    with pytest.raises(BuildError, match="can't take"):
        make(graphs.conv_int8(tmp_path / "conv.onnx", **faults), {"x": rows(4, 16, 16)})


def test_options_that_rtx_takes(tmp_path: Path) -> None:
    path = graphs.conv_int8(tmp_path / "conv.onnx")
    profile = {"x": rows(4, 16, 16)}
    settings = {"workspace_mib": 64, "optimization_level": 1, "version_compatible": True}
    assert make(path, profile, compute_capability="SM89", **settings).notes == ()


def test_a_capability_that_can_not_compute_it_is_a_build_error(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="FP32 GEMM is not supported"):
        make(graphs.mlp(tmp_path / "mlp.onnx"), {"x": rows(16)}, compute_capability="SM75")
    assert not (tmp_path / "mlp.engine").exists()


def test_options_that_rtx_has_no_use_for_are_noted(tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    path = graphs.mlp(tmp_path / "mlp.onnx")
    built = make(path, {"x": rows(16)}, timing_cache=cache, hardware_compatibility="ampere_plus")
    assert len(built.notes) == 2
    assert not cache.exists()


@pytest.mark.parametrize("wrong", [{"compute_capability": "SM1"}, {"typing": "weak"}])
def test_options_that_rtx_does_not_have(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(UsageError):
        make(graphs.mlp(tmp_path / "mlp.onnx"), {"x": rows(16)}, **wrong)


@without_gpu
def test_tensorrt_without_a_gpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MachineError):
        make(graphs.mlp(tmp_path / "mlp.onnx"), {"x": rows(16)}, flavor="tensorrt")


# ------------------------------------------------------------------------------------------------- facts


@without_gpu
def test_an_engine_does_not_load_without_a_gpu(tmp_path: Path) -> None:
    built = make(graphs.mlp(tmp_path / "mlp.onnx"), {"x": rows(16)})
    with pytest.raises(MachineError, match="needs an NVIDIA GPU"):
        TensorRTRunner(built.engine).__enter__()
    info = SimpleNamespace(name="no GPU")
    idle = SimpleNamespace(close=lambda: None, activate=lambda: None, free_bytes=lambda: 0, info=info)
    device: Any = lambda: idle  # noqa: E731
    with pytest.raises(MachineError, match=r"can't load mlp\.engine") as caught:
        TensorRTRunner(built.engine, device=device).__enter__()
    assert "driver" in caught.value.message


def test_the_first_logger_of_a_process_is_the_only_one() -> None:
    api = import_flavour("tensorrt-rtx")
    assert logger_of(api) is logger_of(api)
    with listening(api) as log:
        network = api.Builder(logger_of(api)).create_network(1 << int(api.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        assert not api.OnnxParser(network, logger_of(api)).parse_from_file("/nowhere.onnx")
    assert "cannot be found" in log.last_errors()
    with listening(api) as empty:
        pass
    assert not empty.errors


def test_what_is_found_by_name_and_not_by_version() -> None:
    assert hasattr(rtx.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    assert hasattr(rtx.IBuilderConfig, "set_compute_capability")
    assert hasattr(rtx.ICudaEngine, "create_runtime_config")
    assert hasattr(rtx.DynamicShapesKernelSpecializationStrategy, "EAGER")
    assert not hasattr(rtx.BuilderFlag, "INT8")
    assert not hasattr(rtx.ICudaEngine, "device_memory_size")


@without_gpu
def test_validity_without_a_driver_says_nothing(tmp_path: Path) -> None:
    built = make(graphs.mlp(tmp_path / "mlp.onnx"), {"x": rows(16)})
    runtime = rtx.Runtime(logger_of(rtx))
    validity, why = runtime.get_engine_validity(built.engine.read_bytes())
    assert (validity, why) == (rtx.EngineValidity.INVALID, 0)


def test_layers_that_wait_for_another_stream_are_read_and_are_no_kernels() -> None:
    text = (
        "Layers:\n"
        "Name: __mye1_myl0_0, LayerType: signal, Inputs: [], Constants: [], Outputs: [], TacticName: , "
        "StreamId: 0, EventId: 1, Metadata: \n"
        "Name: __mye1_myl0_1, LayerType: wait, Inputs: [], Constants: [], Outputs: [], TacticName: , "
        "StreamId: 1, EventId: 1, Metadata: \n"
    )
    layers = parse_layers(text)
    assert [layer.kind for layer in layers] == ["signal", "wait"]
    assert summarise(layers).kernels == 0
