"""Coverage, thresholds judged by layers, balance, bias correction, padding: on graphs that each of them could break."""

from __future__ import annotations

from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest
from converting import SHAPES, constants_of, made, normal, sqnr, texts
from onnx import TensorProto, numpy_helper

from mmtrt.errors import SampleError
from mmtrt.onnx_files import load_model
from mmtrt.precision.options import REFINED, REFINEMENTS
from mmtrt.tensors import Array


@pytest.mark.parametrize("kind", ["attention", "mlp", "residual_cnn"])
def test_full_coverage_is_every_product(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    proto = graphs.attention(rng, -1e9) if kind == "attention" else getattr(graphs, kind)(rng)
    samples = texts() if kind == "attention" else normal(SHAPES[kind])
    converted = made(proto, tmp_path, samples, precision="int8", coverage="full")
    assert converted.int8_nodes == converted.mac_nodes
    assert converted.mac_share == 1 or kind == "attention"  # whose text has no usual length
    assert not [kept for kept in converted.kept if kept.precision == "fp16"]
    onnx.checker.check_model(load_model(converted.onnx), full_check=True)


@pytest.mark.parametrize("kind", sorted(SHAPES))
def test_refined_weights_lose_no_more(tmp_path: Path, kind: str) -> None:
    proto = getattr(graphs, kind)(np.random.default_rng(0))
    samples, fresh = normal(SHAPES[kind], count=128), normal(SHAPES[kind], count=64, seed=9)
    loss = {}
    for refine in ((), REFINEMENTS):
        converted = made(proto, tmp_path, samples, precision="int8", method="auto", refine=refine)
        loss[refine] = sqnr(tmp_path, converted, fresh)
    assert loss[REFINEMENTS] > loss[()] - 0.5


def test_channels_are_balanced_where_they_differ(tmp_path: Path) -> None:
    proto = graphs.mlp(np.random.default_rng(0), width=16, layers=3)
    spread = np.geomspace(0.02, 20, 16).astype(np.float32)
    samples, fresh = ([{"x": s["x"] * spread + 3} for s in normal((16,), 128, seed)] for seed in (0, 9))
    loss = {}
    for refine in ((), ("balance",)):
        converted = made(proto, tmp_path, samples, precision="int8", method="auto", refine=refine)
        onnx.checker.check_model(load_model(converted.onnx), full_check=True)
        loss[refine] = sqnr(tmp_path, converted, fresh)
    assert loss["balance",] > loss[()] + 3


def test_a_balance_behind_a_layer_norm_costs_no_node(tmp_path: Path) -> None:
    proto = graphs.attention(np.random.default_rng(0), -1e9, width=16)
    gain = next(t for t in proto.graph.initializer if t.name == "g")
    gain.CopyFrom(numpy_helper.from_array(np.geomspace(0.05, 5, 16).astype(np.float32), "g"))
    samples = texts(16, count=128)
    converted = made(proto, tmp_path, samples, precision="int8", method="auto", refine=("balance",))
    graph = load_model(converted.onnx)
    assert not [node.name for node in graph.graph.node if node.name.startswith(("n.balance", "n.shift"))]
    assert any(name.startswith("n.balanced_scale") for name in constants_of(graph))
    assert sqnr(tmp_path, converted, texts(16, count=40)) > 20


def test_without_a_bias_there_is_no_shift(tmp_path: Path) -> None:
    proto = graphs.residual_cnn(np.random.default_rng(0))
    spread = np.array([0.05, 1, 20], dtype=np.float32)[:, None, None]
    samples, fresh = ([{"x": s["x"] * spread + 1} for s in normal((3, 12, 12), 64, seed)] for seed in (0, 9))
    converted = made(
        proto, tmp_path, samples, precision="int8", method="auto", coverage="full", refine=("balance", "bias")
    )
    names = [node.name for node in load_model(converted.onnx).graph.node]
    assert "x.balance.mul" in names
    assert "x.shift.add" not in names
    assert sqnr(tmp_path, converted, fresh) > 20


def test_a_border_is_padded_before_it_is_shifted(tmp_path: Path) -> None:
    """At full coverage; elsewhere a padded convolution's input, all on one side of 0, gets half of the codes."""
    rng = np.random.default_rng(0)
    constants = {"v": graphs.weights(rng, 8, 8, 3, 3), "c": rng.standard_normal(8).astype(np.float32)}
    nodes = [graphs.node("Relu", ["x"], "r"), graphs.node("Conv", ["r", "v", "c"], "h", pads=[1, 0, 2, 1])]
    nodes.append(graphs.node("Relu", ["h"], "y"))
    proto = graphs.model(nodes, {"x": ["batch", 8, 6, 6]}, {"y": ["batch", 8, 7, 5]}, constants)
    samples, fresh = (normal((8, 6, 6), 64, seed) for seed in (0, 9))
    told = {}
    for coverage in ("wide", "full"):
        converted = made(proto, tmp_path, samples, precision="int8", method="auto", coverage=coverage)
        graph = load_model(converted.onnx).graph
        told[coverage] = sqnr(tmp_path, converted, fresh)
        padding = [node for node in graph.node if node.op_type == "Pad"]
        assert len(padding) == (coverage == "full")
        (conv,) = (node for node in graph.node if node.op_type == "Conv")
        borders = next(list(a.ints) for a in conv.attribute if a.name == "pads")
        assert borders == ([0] * 4 if coverage == "full" else [1, 0, 2, 1])
    # Twice the codes: 6 dB less noise of the inputs; with as much from the weights, which stays, 2 dB are left of it.
    assert told["full"] > told["wide"] + 1.5


def test_a_bias_takes_up_the_mean_error_wherever_it_stands(tmp_path: Path) -> None:
    proto = graphs.mlp(np.random.default_rng(0), width=8, layers=3)
    shifted = [{"x": sample["x"] * 0.1 + 5} for sample in normal((8,), count=128)]
    plain, corrected = (
        load_model(made(proto, tmp_path, shifted, precision="int8", method="max", refine=refine).onnx)
        for refine in ((), ("bias",))
    )
    # Gemm's own bias, that of the Add behind a MatMul, and Gemm's again.
    assert not [name for name in constants_of(plain) if "corrected_bias" in name]
    assert len([name for name in constants_of(corrected) if "corrected_bias" in name]) == 3


def test_padded_tokens_have_no_say_in_the_ranges(tmp_path: Path) -> None:
    proto = graphs.attention(np.random.default_rng(0), -1e9)
    clean = texts()
    peak = np.eye(8, dtype=np.float32)[0] * 100  # a layer norm can give no larger value than for this
    loud = [{**s, "x": np.where(s["mask"][:, None] == 0, peak, s["x"])} for s in clean]
    loudest = [{**s, "x": np.tile(peak, (len(s["x"]), 1))} for s in clean]
    scales = []
    for samples in (clean, loud, loudest):
        converted = made(proto, tmp_path, samples, precision="int8", method="max", refine=())
        scales.append(float(constants_of(load_model(converted.onnx))["n.scale"]))
    assert scales[0] == scales[1] < scales[2]


# ------------------------------------------------------------- graphs that other people's exporters write

RNG = np.random.default_rng(5)
WEIGHT, OTHER = (RNG.standard_normal((16, 16)).astype(np.float32) for _ in range(2))
BIAS = RNG.standard_normal(16).astype(np.float32)
SPREAD = np.geomspace(0.02, 20, 16).astype(np.float32)


def rows_of(count: int = 128, shape: tuple[int, ...] = (16,), seed: int = 0) -> list[dict[str, Array]]:
    """Channels of very different ranges, all off zero: what a balance is made for."""
    return [{"x": (s["x"] * SPREAD + 3).astype(np.float32)} for s in normal(shape, count, seed)]


def two_layers(first: list[onnx.NodeProto], constants: dict[str, Array], **shapes: list[int | str]) -> onnx.ModelProto:
    """Put a ReLU and a second product behind nodes that give `a`; `y` is its shape where it isn't that of `x`."""
    nodes = [*first, graphs.node("Relu", ["a"], "ra"), graphs.node("MatMul", ["ra", "v"], "y")]
    inputs = {"x": ["batch", 16], **shapes}
    result = inputs.pop("y", inputs["x"])
    return graphs.model(nodes, inputs, {"y": result}, {"v": OTHER, **constants})


def loss_of(
    tmp_path: Path, proto: onnx.ModelProto, samples: list[dict[str, Array]], **options: object
) -> dict[tuple[str, ...], float]:
    """Return the SQNR in dB of plain INT8 and of refined INT8; the samples judge too."""
    wanted = {"precision": "int8", "method": "auto", **options}
    return {
        refine: sqnr(tmp_path, made(proto, tmp_path, samples, **wanted, refine=refine), samples)
        for refine in ((), REFINED)
    }


@pytest.mark.parametrize("attributes", [{"alpha": 0.25}, {"beta": 0.5}, {"beta": 0.0}, {"alpha": 2.0, "transB": 1}])
def test_factors_of_a_gemm_are_left_in_peace(tmp_path: Path, attributes: dict[str, float]) -> None:
    proto = two_layers([graphs.node("Gemm", ["x", "w", "c"], "a", **attributes)], {"w": WEIGHT, "c": BIAS})
    loss = loss_of(tmp_path, proto, rows_of())
    assert loss[REFINED] > loss[()] - 2


def test_a_weight_shared_by_two_layers_serves_both(tmp_path: Path) -> None:
    nodes = [graphs.node("MatMul", ["x", "w"], "b"), graphs.node("MatMul", ["z", "w"], "d")]
    nodes.append(graphs.node("Add", ["b", "d"], "a"))
    proto = two_layers(nodes, {"w": WEIGHT}, z=["batch", 16])
    plain = normal((16,), 128, seed=3)
    loss = loss_of(tmp_path, proto, [{**one, "z": two["x"]} for one, two in zip(rows_of(), plain, strict=True)])
    assert loss[REFINED] > loss[()] - 2


@pytest.mark.parametrize("rows", [5, 16])
def test_a_layer_norm_that_is_read_along_its_other_axis(tmp_path: Path, rows: int) -> None:
    left = RNG.standard_normal((16, rows)).astype(np.float32)
    nodes = [graphs.node("LayerNormalization", ["x", "g", "b"], "n"), graphs.node("MatMul", ["left", "n"], "a")]
    constants = {"g": SPREAD, "b": BIAS, "left": left}
    proto = two_layers(nodes, constants, x=["batch", rows, 16], y=["batch", 16, 16])
    samples = rows_of(shape=(rows, 16))
    loss = loss_of(tmp_path, proto, samples)
    assert loss[REFINED] > loss[()] - 2


def test_a_value_that_is_read_along_both_axes(tmp_path: Path) -> None:
    nodes = [graphs.node("MatMul", ["w", "x"], "b"), graphs.node("MatMul", ["x", "w2"], "d")]
    nodes.append(graphs.node("Add", ["b", "d"], "a"))
    proto = two_layers(nodes, {"w": WEIGHT, "w2": OTHER}, x=["batch", 16, 16])
    loss = loss_of(tmp_path, proto, rows_of(shape=(16, 16)))
    assert loss[REFINED] > loss[()] - 2


def test_a_gate_with_one_column_and_a_number_for_a_bias(tmp_path: Path) -> None:
    nodes = [graphs.node("MatMul", ["x", "w1"], "g"), graphs.node("Add", ["g", "one"], "h")]
    nodes += [graphs.node("Sigmoid", ["h"], "s"), graphs.node("Mul", ["x", "s"], "a")]
    proto = two_layers(nodes, {"w1": WEIGHT[:, :1].copy(), "one": np.asarray(np.float32(1))})
    assert loss_of(tmp_path, proto, rows_of())[REFINED] > 20


def test_nodes_without_names(tmp_path: Path) -> None:
    proto = graphs.mlp(np.random.default_rng(0), width=16, layers=3)
    for node in proto.graph.node:
        node.name = ""
    loss = loss_of(tmp_path, proto, rows_of())
    assert loss[REFINED] > loss[()] - 2


def test_a_product_that_is_an_output_too_keeps_its_meaning(tmp_path: Path) -> None:
    nodes = [
        graphs.node("MatMul", ["x", "w"], "a"),
        graphs.node("Add", ["a", "c"], "b"),
        graphs.node("Relu", ["b"], "y"),
    ]
    outputs = {"a": ["batch", 16], "y": ["batch", 16]}
    proto = graphs.model(nodes, {"x": ["batch", 16]}, outputs, {"w": WEIGHT, "c": BIAS})
    loss = loss_of(tmp_path, proto, rows_of(), coverage="full")
    assert loss[REFINED] > loss[()] - 2


CONVOLUTION = {
    "k": RNG.standard_normal((8, 3, 3, 3)).astype(np.float32),
    "k2": RNG.standard_normal((4, 8, 3, 3)).astype(np.float32),
}


def test_several_cameras_in_one_batch_are_seen_alike(tmp_path: Path) -> None:
    """The second camera is ten times as bright as the first; a batch of one sample holds both."""
    nodes = [
        graphs.node("Reshape", ["x", "shape"], "f"),
        graphs.node("Conv", ["f", "k"], "c", pads=[1, 1, 1, 1]),
        graphs.node("Relu", ["c"], "r"),
        graphs.node("Conv", ["r", "k2"], "y", pads=[1, 1, 1, 1]),
    ]
    shape = {"shape": np.array([-1, 3, 8, 8])}
    inputs, outputs = {"x": ["batch", 2, 3, 8, 8]}, {"y": ["images", 4, 8, 8]}
    proto = graphs.model(nodes, inputs, outputs, {**CONVOLUTION, **shape})
    bright = np.array([1, 10], dtype=np.float32)[:, None, None, None]
    samples = [{"x": s["x"] * bright} for s in normal((2, 3, 8, 8), 64)]
    scales = []
    for batch in (1, 4):
        converted = made(proto, tmp_path, samples, precision="int8", method="auto", batch=batch)
        assert sqnr(tmp_path, converted, samples) > 25
        scales.append(constants_of(load_model(converted.onnx)))
    assert scales[0].keys() == scales[1].keys()
    assert all(np.array_equal(scales[0][name], scales[1][name]) for name in scales[0])


def test_a_convolution_of_a_constant_map_has_no_samples(tmp_path: Path) -> None:
    nodes = [
        graphs.node("ReduceMean", ["x"], "m", keepdims=1),
        graphs.node("Mul", ["grid", "m"], "gg"),
        graphs.node("Conv", ["gg", "k"], "c", pads=[1, 1, 1, 1]),
        graphs.node("Relu", ["c"], "r"),
        graphs.node("Conv", ["r", "k2"], "d", pads=[1, 1, 1, 1]),
        graphs.node("Add", ["d", "x"], "y"),
    ]
    axes = {"x": ["batch", 4, 8, 8]}
    grid = {"grid": RNG.standard_normal((1, 3, 8, 8)).astype(np.float32)}
    proto = graphs.model(nodes, axes, {"y": axes["x"]}, {**CONVOLUTION, **grid})
    samples = [{"x": s["x"] + np.float32(3)} for s in normal((4, 8, 8), 64)]
    assert loss_of(tmp_path, proto, samples)[REFINED] > 20


def test_the_maximum_is_the_maximum_of_all_samples(tmp_path: Path) -> None:
    proto = two_layers([graphs.node("MatMul", ["x", "w"], "a")], {"w": WEIGHT}, x=["batch", "text", 16])
    samples = rows_of(256, (64, 16))
    graph = load_model(made(proto, tmp_path, samples, precision="int8", method="max").onnx)
    largest = max(float(np.abs(s["x"]).max()) for s in samples)
    assert float(constants_of(graph)["x.scale"]) * 127 == pytest.approx(largest, rel=1e-6)


# ------------------------------------------------------------------------------------------------ masks


def masked(name: str, tokens: int | str) -> onnx.ModelProto:
    nodes = [
        graphs.node("MatMul", ["x", "w"], "a"),
        graphs.node("Relu", ["a"], "ra"),
        graphs.node("MatMul", ["ra", "v"], "b"),
        graphs.node("Cast", [name], "m", to=TensorProto.FLOAT),
        graphs.node("Unsqueeze", ["m", "axis"], "m3"),
        graphs.node("Add", ["b", "m3"], "y"),
    ]
    inputs = {"x": ["batch", tokens, 16], name: ["batch", tokens]}
    constants = {"w": WEIGHT, "v": OTHER, "axis": np.array([2])}
    return graphs.model(nodes, inputs, {"y": inputs["x"]}, constants, dtypes={name: TensorProto.BOOL})


def mask_set(name: str, mask: list[int], loud: float = 1.0) -> list[dict[str, Array]]:
    kept = np.array(mask, dtype=bool)
    return [
        {"x": np.where(kept[:, None], s["x"], s["x"] * np.float32(loud)), name: kept}
        for s in normal((len(mask), 16), 64)
    ]


@pytest.mark.parametrize("tokens", ["text", 6])
def test_padding_has_no_say_whether_the_length_has_a_name_or_not(tmp_path: Path, tokens: int | str) -> None:
    proto = masked("attention_mask", tokens)
    scales = []
    for by in (1.0, 1000.0):
        samples = mask_set("attention_mask", [1, 1, 1, 1, 0, 0], by)
        constants = constants_of(
            load_model(made(proto, tmp_path, samples, precision="int8", method="mse", refine=()).onnx)
        )
        scales.append({name: float(array) for name, array in constants.items() if array.ndim == 0})
    assert scales[0] == scales[1]


def test_a_padding_mask_of_unknown_meaning_masks_nothing(tmp_path: Path) -> None:
    proto = masked("key_padding_mask", "text")
    samples = mask_set("key_padding_mask", [0, 0, 0, 0, 0, 0])
    assert loss_of(tmp_path, proto, samples)[REFINED] > 30


def test_a_set_whose_tokens_are_all_masked_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="'attention_mask' masks all tokens of all samples"):
        made(masked("attention_mask", "text"), tmp_path, mask_set("attention_mask", [0] * 6), precision="int8")
