"""FP32 to FP16 and INT8 on graphs of several kinds: judged by the ONNX checker, ONNX Runtime and TensorRT-RTX."""

from __future__ import annotations

from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest
from converting import SHAPES, constants_of, made, normal, run, sample_set, sqnr, texts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from mmtrt.engine.build import BuildOptions, build_engine, int8_kept
from mmtrt.errors import BuildError, ModelError, SampleError, UsageError
from mmtrt.onnx_files import load_model, model_spec, open_model
from mmtrt.pipeline.building import BuildRequest
from mmtrt.precision.convert import convert
from mmtrt.precision.options import PrecisionOptions
from mmtrt.precision.placement import Priced
from mmtrt.recipe import Precision
from mmtrt.tensors import Array, ShapeRange


@pytest.mark.parametrize("kind", sorted(SHAPES))
@pytest.mark.parametrize(("precision", "least_db"), [("fp16", 45.0), ("int8", 22.0)])
@pytest.mark.parametrize("method", ["auto", "entropy", "max", "mse", "percentile"])
def test_a_converted_graph_says_what_fp32_says(
    tmp_path: Path, kind: str, precision: str, least_db: float, method: str
) -> None:
    proto = getattr(graphs, kind)(np.random.default_rng(0))
    samples = normal(SHAPES[kind])
    converted = made(proto, tmp_path, samples, precision=precision, method=method)
    assert sqnr(tmp_path, converted, normal(SHAPES[kind], count=10, seed=9)) > least_db


@given(seed=st.integers(0, 2**32 - 1), width=st.integers(1, 24), layers=st.integers(1, 5))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_mlp_converts_to_a_valid_graph_with_the_same_interface(
    tmp_path: Path, seed: int, width: int, layers: int
) -> None:
    proto = graphs.mlp(np.random.default_rng(seed), width, layers)
    for precision in ("fp16", "int8"):
        converted = made(proto, tmp_path, normal((width,), count=32, seed=seed), precision=precision)
        written = load_model(converted.onnx)
        onnx.checker.check_model(written, full_check=True)
        before, after = model_spec(proto), model_spec(written)
        assert (before.inputs, before.outputs) == (after.inputs, after.outputs)
        assert run(converted.onnx, {"x": np.zeros((3, width), dtype=np.float32)})["y"].shape == (3, width)


def test_qdq_is_written_as_tensorrt_takes_it(tmp_path: Path) -> None:
    converted = made(graphs.residual_cnn(np.random.default_rng(0)), tmp_path, normal((3, 12, 12)), precision="int8")
    proto = load_model(converted.onnx)
    constants = constants_of(proto)
    producers = {name: node for node in proto.graph.node for name in node.output}
    for node in proto.graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            scale, zero = constants[node.input[1]], constants[node.input[2]]
            assert scale.dtype == np.float32
            assert (scale > 0).all()
            assert zero.dtype == np.int8
            assert not zero.any()
            assert zero.shape == scale.shape
            # A scale of shape (1,) is a channel's, not the tensor's, and costs a Conv its INT8 in TensorRT-RTX.
            assert scale.shape == () or node.op_type == "DequantizeLinear"
        if node.op_type in {"Conv", "Gemm"} and len(node.input) > 2 and node.input[2]:
            assert node.input[2] in constants
    stored = {name: array for name, array in constants.items() if array.dtype == np.int8 and array.ndim > 1}
    assert len(stored) == 6
    assert all(array.min() >= -127 for array in stored.values())
    for name, array in stored.items():
        dequantize = next(n for n in proto.graph.node if n.input[0] == name)
        axis = next(a.i for a in dequantize.attribute if a.name == "axis")
        assert constants[dequantize.input[1]].shape == (array.shape[axis],)
    # The classifier and nothing else stays float; what it gives is not quantised.
    assert [kept.node for kept in converted.kept] == ["y_Gemm"]
    assert converted.int8_nodes == 6
    assert converted.mac_nodes == 7
    assert producers["y"].op_type == "Cast"


def test_the_branch_that_joins_a_convolution_is_quantised(tmp_path: Path) -> None:
    converted = made(graphs.residual_cnn(np.random.default_rng(0)), tmp_path, normal((3, 12, 12)), precision="int8")
    proto = load_model(converted.onnx)
    producers = {name: node for node in proto.graph.node for name in node.output}

    def origin(name: str) -> str:
        while producers[name].op_type == "Cast":
            name = producers[name].input[0]
        return producers[name].op_type

    adds = [node for node in proto.graph.node if node.op_type == "Add" and not node.name.endswith(".shift.add")]
    assert len(adds) == 2
    for add in adds:
        assert sorted(origin(name) for name in add.input) == ["Conv", "DequantizeLinear"]


def test_the_share_of_the_work_is_counted_at_the_usual_shape(tmp_path: Path) -> None:
    converted = made(graphs.residual_cnn(np.random.default_rng(0)), tmp_path, normal((3, 12, 12)), precision="int8")
    convs = 144 * 8 * (3 * 9 + 8 * 9 + 8 * 9) + 36 * 8 * (8 * 9 + 8)
    head = 8 * 16
    assert converted.mac_share == pytest.approx((convs + head) / (convs + head + 16 * 5))


@pytest.mark.parametrize("mask_value", [-3.4028234663852886e38, -np.inf, -1e9])
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_masks_survive_and_a_wholly_masked_row_is_no_worse_than_fp32(
    tmp_path: Path, mask_value: float, precision: str
) -> None:
    proto = graphs.attention(np.random.default_rng(0), mask_value)
    samples = texts()
    if mask_value == -np.inf:
        # FP32 itself gives NaN for a wholly masked row.
        samples = [s for s in samples if s["mask"].any()]
    converted = made(proto, tmp_path, samples, precision=precision)
    assert sqnr(tmp_path, converted, samples) > (40 if precision == "fp16" else 20)
    assert any("clamped" in note for note in converted.notes)


def test_a_layer_beyond_fp16_stays_fp32_and_no_other(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    constants = {
        "w": graphs.weights(rng, 8, 8),
        "up": np.float32(2e5),
        "down": np.float32(1e-5),
        "v": graphs.weights(rng, 8, 8),
    }
    nodes = [
        graphs.node("MatMul", ["x", "w"], "a"),
        graphs.node("Mul", ["a", "up"], "big"),
        graphs.node("Mul", ["big", "down"], "small"),
        graphs.node("MatMul", ["small", "v"], "y"),
    ]
    proto = graphs.model(nodes, {"x": ["batch", 8]}, {"y": ["batch", 8]}, constants)
    samples = normal((8,))
    converted = made(proto, tmp_path, samples, precision="fp16")
    assert {kept.node for kept in converted.kept} == {"big_Mul", "small_Mul"}
    assert all(kept.precision == "fp32" for kept in converted.kept)
    assert sqnr(tmp_path, converted, samples) > 50


def test_an_overflow_that_only_the_data_shows_is_seen(tmp_path: Path) -> None:
    """No constant is large, but the product of two activations is."""
    nodes = [graphs.node("Mul", ["x", "x"], "square"), graphs.node("Relu", ["square"], "y")]
    proto = graphs.model(nodes, {"x": ["batch", 4]}, {"y": ["batch", 4]}, {})
    small, large = normal((4,)), [{"x": 500 * s["x"]} for s in normal((4,))]
    assert made(proto, tmp_path, small, precision="fp16").kept == ()
    assert {k.node for k in made(proto, tmp_path, large, precision="fp16").kept} == {"square_Mul", "y_Relu"}


def test_norms_and_exponentials_stay_fp32(tmp_path: Path) -> None:
    constants = {"axes": np.array([1]), "two": np.float32(2), "w": graphs.weights(np.random.default_rng(0), 4, 4)}
    nodes = [
        graphs.node("MatMul", ["x", "w"], "h"),
        graphs.node("Pow", ["h", "two"], "squares"),
        graphs.node("ReduceSum", ["squares", "axes"], "sum", keepdims=1),
        graphs.node("Sqrt", ["sum"], "norm"),
        graphs.node("Div", ["h", "norm"], "y"),
    ]
    proto = graphs.model(nodes, {"x": ["batch", 4]}, {"y": ["batch", 4]}, constants)
    kept = made(proto, tmp_path, normal((4,)), precision="fp16").kept
    assert {"squares_Pow", "sum_ReduceSum", "norm_Sqrt"} <= {k.node for k in kept}
    assert "h_MatMul" not in {k.node for k in kept}


def test_integers_beyond_2048_stay_fp32(tmp_path: Path) -> None:
    nodes = [graphs.node("Cast", ["n"], "f", to=TensorProto.FLOAT), graphs.node("Relu", ["f"], "y")]
    proto = graphs.model(nodes, {"n": ["batch", 2]}, {"y": ["batch", 2]}, {}, dtypes={"n": TensorProto.INT64})

    def kept(largest: int, folder: Path) -> set[str]:
        samples = [{"n": np.array([largest, 3])} for _ in range(40)]
        return {k.node for k in made(proto, folder, samples, precision="fp16").kept}

    assert kept(2000, tmp_path) == set()
    assert "f_Cast" in kept(4097, tmp_path)


def test_what_is_asked_to_be_kept_is_kept(tmp_path: Path) -> None:
    proto = graphs.mlp(np.random.default_rng(0))
    full = made(proto, tmp_path, normal((8,)), precision="int8")
    less = made(proto, tmp_path, normal((8,)), precision="int8", keep=("h0_Gemm",))
    assert less.int8_nodes == full.int8_nodes - 1
    assert ("h0_Gemm", "asked to be kept") in {(k.node, k.why) for k in less.kept}
    with pytest.raises(UsageError, match="h0_Gem") as refused:
        made(proto, tmp_path, normal((8,)), precision="int8", keep=("h0_Gem",))
    assert "h0_Gemm" in str(refused.value.fix)


def test_equal_inputs_give_equal_bytes(tmp_path: Path) -> None:
    proto = graphs.residual_cnn(np.random.default_rng(0))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        made(proto, tmp_path / name, normal((3, 12, 12)), precision="int8")
    first, second = ((tmp_path / name / "model.int8.onnx").read_bytes() for name in ("a", "b"))
    assert first == second


def test_a_weight_used_twice_is_stored_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    nodes = [
        graphs.node("MatMul", ["x", "w"], "a"),
        graphs.node("MatMul", ["a", "w"], "b"),
        graphs.node("Relu", ["b"], "y"),
    ]
    proto = graphs.model(nodes, {"x": ["batch", 6]}, {"y": ["batch", 6]}, {"w": graphs.weights(rng, 6, 6)})
    converted = made(proto, tmp_path, normal((6,)), precision="int8")
    stored = [a for a in constants_of(load_model(converted.onnx)).values() if a.dtype == np.int8 and a.ndim == 2]
    assert converted.int8_nodes == 2
    assert len(stored) == 1


def test_a_dead_channel_and_a_dead_input_get_a_scale(tmp_path: Path) -> None:
    weight = graphs.weights(np.random.default_rng(0), 4, 4)
    weight[:, 2] = 0
    nodes = [graphs.node("MatMul", ["x", "w"], "h"), graphs.node("Relu", ["h"], "y")]
    proto = graphs.model(nodes, {"x": ["batch", 4]}, {"y": ["batch", 4]}, {"w": weight})
    converted = made(proto, tmp_path, [{"x": np.zeros(4, dtype=np.float32)}] * 32, precision="int8")
    scales = [a for n, a in constants_of(load_model(converted.onnx)).items() if n.endswith(".scale")]
    assert all((scale > 0).all() for scale in scales)
    assert not run(converted.onnx, {"x": np.zeros((1, 4), dtype=np.float32)})["y"].any()


def test_few_samples_are_told(tmp_path: Path) -> None:
    converted = made(graphs.mlp(np.random.default_rng(0)), tmp_path, normal((8,), count=5), precision="int8")
    assert any("only 5" in note for note in converted.notes)
    assert converted.calibration is not None
    assert converted.calibration.samples == 5


def test_without_samples_there_is_no_int8(tmp_path: Path) -> None:
    source = graphs.saved(graphs.mlp(np.random.default_rng(0)), tmp_path / "model.onnx")
    with pytest.raises(SampleError, match="needs samples"):
        convert(source, tmp_path / "out.onnx", PrecisionOptions(precision="int8"))
    assert not (tmp_path / "out.onnx").exists()


def test_a_recipe_asks_for_what_is_done_unasked() -> None:
    told, done = Precision(), PrecisionOptions(precision="int8")
    assert (told.method, told.refine) == (done.method, done.refine)
    assert told.coverage == BuildRequest(model=Path("m.onnx"), folder=Path()).coverage


def test_an_unknown_method_is_refused_with_the_nearest(tmp_path: Path) -> None:
    source = graphs.saved(graphs.mlp(np.random.default_rng(0)), tmp_path / "model.onnx")
    with pytest.raises(UsageError) as refused:
        convert(source, tmp_path / "out.onnx", PrecisionOptions(precision="int8", method="percentil"))
    assert "'percentile'" in str(refused.value.fix)


def test_a_model_that_overflows_in_fp32_is_told_with_the_samples(tmp_path: Path) -> None:
    constants = {"w": np.full((4, 4), 3e38, dtype=np.float32), "v": graphs.weights(np.random.default_rng(0), 4, 4)}
    nodes = [
        graphs.node("MatMul", ["x", "w"], "a"),
        graphs.node("MatMul", ["a", "v"], "b"),
        graphs.node("Relu", ["b"], "y"),
    ]
    proto = graphs.model(nodes, {"x": ["batch", 4]}, {"y": ["batch", 4]}, constants)
    with pytest.raises(SampleError, match="not finite"):
        made(proto, tmp_path, normal((4,)), precision="int8")


# ------------------------------------------------------------------------------------------- already quantised


def quantised(zero: Array, scale: float = 0.05) -> onnx.ModelProto:
    constants = {
        "s": np.float32(scale),
        "z": zero,
        "c": np.clip(np.random.default_rng(0).integers(-127, 128, (4, 4)), -127, 127).astype(np.int8),
        "cs": np.float32(0.01),
        "cz": np.int8(0),
    }
    nodes = [
        graphs.node("QuantizeLinear", ["x", "s", "z"], "q"),
        graphs.node("DequantizeLinear", ["q", "s", "z"], "d"),
        graphs.node("DequantizeLinear", ["c", "cs", "cz"], "w"),
        graphs.node("MatMul", ["d", "w"], "h"),
        graphs.node("Relu", ["h"], "y"),
    ]
    return graphs.model(
        nodes, {"x": ["batch", 4]}, {"y": ["batch", 4]}, {k: np.asarray(v) for k, v in constants.items()}
    )


def test_a_quantised_model_keeps_its_qdq(tmp_path: Path) -> None:
    converted = made(quantised(np.int8(0)), tmp_path, normal((4,)), precision="int8")
    constants = constants_of(load_model(converted.onnx))
    assert constants["s"] == np.float32(0.05)
    assert converted.int8_nodes == converted.mac_nodes == 1
    assert any("quantised already" in note for note in converted.notes)


@pytest.mark.parametrize(("zero", "why"), [(np.uint8(128), "UINT8"), (np.int8(3), "zero point")])
def test_qdq_that_tensorrt_cant_take_is_refused_by_name(tmp_path: Path, zero: Array, why: str) -> None:
    with pytest.raises(ModelError, match=why) as refused:
        made(quantised(zero), tmp_path, normal((4,)), precision="int8")
    assert "q_QuantizeLinear" in refused.value.message


def test_an_int32_bias_is_refused_by_name(tmp_path: Path) -> None:
    """ONNX Runtime's quantizer writes it, and TensorRT's parser fails at it."""
    constants = {"w": np.eye(4, dtype=np.float32), "c": np.arange(4, dtype=np.int32), "s": np.float32(0.01)}
    nodes = [
        graphs.node("DequantizeLinear", ["c", "s"], "b"),
        graphs.node("Gemm", ["x", "w", "b"], "h"),
        graphs.node("Relu", ["h"], "y"),
    ]
    arrays = {name: np.asarray(array) for name, array in constants.items()}
    proto = graphs.model(nodes, {"x": ["batch", 4]}, {"y": ["batch", 4]}, arrays)
    with pytest.raises(ModelError, match="INT32: a bias must stay float") as refused:
        made(proto, tmp_path, normal((4,)), precision="int8")
    assert "b_DequantizeLinear" in refused.value.message


# --------------------------------------------------------------------------------------------- TensorRT judges


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("kind", ["attention", "mlp", "residual_cnn"])
def test_tensorrt_builds_what_was_written(tmp_path: Path, kind: str, precision: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    rng = np.random.default_rng(0)
    proto = graphs.attention(rng, -3e38, width=32) if kind == "attention" else getattr(graphs, kind)(rng, 32)
    samples = texts(32) if kind == "attention" else normal((32,) if kind == "mlp" else (3, 12, 12))
    converted = made(proto, tmp_path, samples, precision=precision)
    spans = {"batch": (1, 2, 4), "text": (2, 4, 8)}
    profile = {}
    for tensor in converted.spec.inputs:
        sized = [tuple(spans[d][i] if isinstance(d, str) else d for d in tensor.shape) for i in range(3)]
        profile[tensor.name] = ShapeRange(min=sized[0], opt=sized[1], max=sized[2])
    built = build_engine(
        converted.onnx, tmp_path / "e.engine", profile=profile, options=BuildOptions(flavor="tensorrt-rtx")
    )
    assert built.engine_bytes == (tmp_path / "e.engine").stat().st_size > 0
    kept = int8_kept(built)
    assert built.summary is not None
    if precision == "fp16":
        assert kept == 0
        return
    # The builder joins products of one input (query, key, value); of convolutions only the stem is float.
    assert kept is not None
    assert 0 < kept <= converted.int8_nodes
    assert built.summary.conv.get("fp16", 0) == sum(
        mac.why == "it reads an image of few channels" for mac in converted.kept
    )
    assert set(built.summary.conv) <= {"int8", "fp16"}


# ------------------------------------------------------------------------------------------ coverage, refinement


def test_a_builder_that_tells_no_kernels_places_by_the_rules(tmp_path: Path) -> None:
    def silent(path: Path, sizes: object) -> Priced:
        raise BuildError(f"no layers of {path.name} at {sizes}")

    source = graphs.saved(graphs.mlp(np.random.default_rng(0)), tmp_path / "m.onnx")
    samples = sample_set(normal((8,)))
    wide, judged = (
        convert(
            source,
            tmp_path / f"{coverage}.onnx",
            PrecisionOptions(precision="int8", coverage=coverage),
            samples=samples,
            price=silent,
        )
        for coverage in ("wide", "engine")
    )
    assert judged.int8_nodes == wide.int8_nodes > 0
    assert any("can't be judged by the engine" in text for text in judged.notes)
    with pytest.raises(UsageError, match="needs a builder"):
        convert(source, tmp_path / "o.onnx", PrecisionOptions(precision="int8", coverage="engine"), samples=samples)


# ------------------------------------------------------------------------------------------------- large models


def test_a_stem_stays_float_where_it_is_little_work(tmp_path: Path) -> None:
    for channels, kept in ((32, True), (8, False)):
        proto = graphs.residual_cnn(np.random.default_rng(0), channels)
        converted = made(proto, tmp_path, normal((3, 12, 12)), precision="int8", coverage="full")
        assert any(one.node == "c0_Conv" for one in converted.kept) is kept
        assert converted.mac_share > 0.95


def test_weights_stay_in_the_file(tmp_path: Path) -> None:
    """A model with large weights is converted as one with small ones is, and its weights are all in the result."""
    rng = np.random.default_rng(0)
    wide = 192  # 192 * 192 float32 are more than 64 KiB
    proto = graphs.mlp(rng, wide)
    opened = tmp_path / "m.onnx"
    onnx.save(proto, opened)
    skeleton = open_model(opened)
    assert any(t.data_location == onnx.TensorProto.EXTERNAL for t in skeleton.graph.initializer)
    whole = load_model(opened)
    assert whole == proto
    converted = made(proto, tmp_path, normal((wide,)), precision="fp16")
    written = load_model(converted.onnx)
    assert all(t.data_location == onnx.TensorProto.DEFAULT for t in written.graph.initializer)
