"""Engines on a real GPU, against ONNX Runtime over the very same ONNX."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmtrt.engine import manifest
from mmtrt.engine.build import BuildOptions, EngineBuild, build_engine, int8_kept
from mmtrt.engine.flavours import FlavourName, installed
from mmtrt.errors import InputError
from mmtrt.runtimes.cuda import GpuInfo, open_cuda
from mmtrt.runtimes.tensorrt import TensorRTRunner
from mmtrt.tensors import ShapeRange

pytestmark = pytest.mark.gpu

IMAGES = ShapeRange(min=(1, 4, 16, 16), opt=(2, 4, 16, 16), max=(4, 4, 16, 16))
ROWS = ShapeRange(min=(1, 16), opt=(2, 16), max=(4, 16))


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def flavour(request: pytest.FixtureRequest, gpu: GpuInfo) -> FlavourName:
    name: FlavourName = request.param
    if name not in {found.name for found in installed()}:
        pytest.skip(f"{name} is not installed")
    return name


@pytest.fixture
def graphs(gpu: GpuInfo) -> Any:
    pytest.importorskip("onnxruntime")
    import engine_graphs

    return engine_graphs


Make = Callable[[Path, dict[str, ShapeRange]], EngineBuild]


@pytest.fixture
def make(flavour: FlavourName) -> Make:
    def build(onnx: Path, profile: dict[str, ShapeRange]) -> EngineBuild:
        options = BuildOptions(flavor=flavour)
        built = build_engine(onnx, onnx.with_suffix(".engine"), profile=profile, options=options)
        manifest.write(built, onnx_digest="", precision="as it is")
        return built

    return build


def reference(onnx: Path, feeds: dict[str, Any]) -> dict[str, Any]:
    from mmtrt.runtimes.ort import OrtRunner

    with OrtRunner(onnx, "parity") as runner:
        return runner.infer(feeds)


def images(batch: int) -> dict[str, Any]:
    return {"x": np.random.default_rng(batch).normal(size=(batch, 4, 16, 16)).astype(np.float32)}


def rows(batch: int) -> dict[str, Any]:
    return {"x": np.random.default_rng(batch).normal(size=(batch, 16)).astype(np.float32)}


def test_a_float_engine_says_what_onnx_runtime_says(graphs: Any, make: Make, tmp_path: Path, gpu: GpuInfo) -> None:
    onnx = graphs.mlp(tmp_path / "mlp.onnx")
    built = make(onnx, {"x": ROWS})
    with TensorRTRunner(built.engine) as runner:
        assert gpu.name in runner.runs
        for batch in (1, 4, 2):
            got = runner.infer(rows(batch))["y"]
            # TF32 keeps ten bits of a product's factors.
            np.testing.assert_allclose(got, reference(onnx, rows(batch))["y"], rtol=1e-2, atol=2e-2)


def test_an_int8_engine_says_what_onnx_runtime_says(graphs: Any, make: Make, tmp_path: Path) -> None:
    onnx = graphs.conv_int8(tmp_path / "conv.onnx")
    built = make(onnx, {"x": IMAGES})
    assert int8_kept(built) == 2
    with TensorRTRunner(built.engine) as runner:
        for batch in (1, 3):
            got, wanted = runner.infer(images(batch))["y"], reference(onnx, images(batch))["y"]
            # One step of the second quantiser may round the other way: 0.02 times a weight of at most 1.27.
            assert np.abs(got - wanted).max() <= 8 * 0.02 * 1.27


def test_two_inputs_of_different_types(graphs: Any, make: Make, tmp_path: Path) -> None:
    onnx = graphs.tokens(tmp_path / "tokens.onnx")
    built = make(onnx, {"ids": ShapeRange(min=(1, 1), opt=(2, 4), max=(4, 8)), "image": ROWS})
    feeds = {"ids": np.array([[1, 2, 49]]), "image": rows(1)["x"]}
    with TensorRTRunner(built.engine) as runner:
        np.testing.assert_allclose(runner.infer(feeds)["y"], reference(onnx, feeds)["y"], atol=1e-5)


def test_a_size_outside_the_profile_is_refused_and_the_next_call_runs(graphs: Any, make: Make, tmp_path: Path) -> None:
    built = make(graphs.mlp(tmp_path / "mlp.onnx"), {"x": ROWS})
    with TensorRTRunner(built.engine) as runner:
        with pytest.raises(InputError, match="'x' has size 5 on axis 0, the engine takes 1 to 4"):
            runner.infer(rows(5))
        assert runner.infer(rows(4))["y"].shape == (4, 8)


def test_times_are_positive_and_copies_cost(graphs: Any, make: Make, tmp_path: Path) -> None:
    built = make(graphs.conv_int8(tmp_path / "conv.onnx"), {"x": IMAGES})
    with (
        TensorRTRunner(built.engine) as runner,
        runner.timed(images(4), cuda_graph=False, transfers=True) as whole,
        runner.timed(images(4), cuda_graph=False, transfers=False) as bare,
    ):
        for _ in range(50):
            whole.once()
        times = [(whole.once().latency_ms, bare.once().latency_ms) for _ in range(200)]
    assert min(min(pair) for pair in times) > 0
    assert np.median([pair[0] for pair in times]) > np.median([pair[1] for pair in times])


def test_memory_is_given_back(graphs: Any, make: Make, tmp_path: Path) -> None:
    built = make(graphs.conv_int8(tmp_path / "conv.onnx"), {"x": IMAGES})
    cuda = open_cuda()

    def once() -> int:
        with TensorRTRunner(built.engine) as runner:
            runner.infer(images(4))
        return cuda.free_bytes()

    once()  # The libraries keep what they load once.
    before = once()
    for _ in range(5):
        after = once()
    assert before - after < 8 << 20
    cuda.close()
