from __future__ import annotations

import json

import pytest

from mmtrt.bench.layers import LayerTime, Nodes, placed
from mmtrt.bench.slower import Builds, compare_builds, engine_layers

OPS = {
    "conv": "Conv",
    "relu": "Relu",
    "add": "Add",
    "query": "MatMul",
    "softmax": "Softmax",
    "values": "MatMul",
    "norm": "LayerNormalization",
    "relu.q": "QuantizeLinear",
    "relu.dq": "DequantizeLinear",
}
NODES = Nodes(branches=dict.fromkeys(OPS, "image"), modules={name: f"m.{name}" for name in OPS}, ops=OPS)


def layer(name: str, nodes: str, ms: float = 0.0, precision: str = "fp16") -> LayerTime:
    names = tuple(nodes.split())
    return LayerTime(name=name, kind="k", nodes=names, precision=precision, ms=ms, share=0.0, **placed(names, NODES))


def reasons(before: list[LayerTime], after: list[LayerTime], *, timed: bool = True) -> list[str]:
    found = compare_builds(before, after, NODES, timed=timed)
    return [why for group in found.slower for why in group.why]


def test_a_faster_build_has_nothing_to_tell() -> None:
    found = compare_builds([layer("a", "conv relu", 1.0)], [layer("b", "conv relu", 0.5, "int8")], NODES)
    assert (found.slower, found.ratio, found.groups) == ((), 0.5, 1)


def test_what_stayed_in_float_is_told() -> None:
    assert reasons([layer("a", "conv", 1.0)], [layer("b", "conv", 1.1)]) == ["still computed in fp16"]


def test_kernels_around_an_int8_one_are_counted_with_what_they_are_for() -> None:
    after = [
        layer("quantise", "relu.q", 0.3),
        layer("product", "conv relu.dq", 0.5, "int8"),
        layer("epilogue", "conv add", 0.4, "fp32"),
    ]
    found = compare_builds([layer("a", "conv add", 1.0)], after, NODES)
    group = found.slower[0]
    assert group.why == ("3 kernels where there was 1: 1 to quantise or dequantise, 1 for what was fused before",)
    assert (group.precision_before, group.precision_after) == ("fp16", "int8")
    assert group.kernels_after == ("quantise", "product", "epilogue")
    assert group.before_ms == 1.0
    assert group.after_ms == pytest.approx(1.2)


def test_an_attention_that_fell_apart_is_told() -> None:
    after = [layer("q", "query", 0.4, "int8"), layer("s", "softmax", 0.4), layer("v", "values", 0.4, "int8")]
    told = reasons([layer("mha", "query softmax values", 1.0)], after)
    assert told[0] == "attention is no longer one kernel"
    assert told[1].startswith("3 kernels where there was 1")


def test_a_small_int8_kernel_is_told_apart_from_a_large_one() -> None:
    assert reasons([layer("a", "conv", 0.004)], [layer("b", "conv", 0.004, "int8")]) == [
        "too small to gain: its launch and its weights take the time"
    ]
    assert reasons([layer("a", "conv", 1.0)], [layer("b", "conv", 1.0, "int8")]) == ["its int8 kernel is no faster"]


def test_groups_are_the_same_however_each_build_fuses() -> None:
    before = [layer("a", "conv relu", 1.0), layer("n", "norm", 1.0)]
    after = [layer("b", "conv", 0.2, "int8"), layer("c", "relu norm", 0.2)]
    # One kernel of the second build reaches over two of the first: all of it is one group.
    assert compare_builds(before, after, NODES).groups == 1


def test_a_shared_dequantisation_joins_nothing() -> None:
    before = [layer("a", "conv", 1.0), layer("b", "query", 1.0)]
    after = [layer("c", "conv relu.dq", 2.0, "int8"), layer("d", "query relu.dq", 0.5, "int8")]
    found = compare_builds(before, after, NODES)
    assert found.groups == 2
    assert [group.module for group in found.slower] == ["m.conv"]


def test_what_loses_most_comes_first() -> None:
    before = [layer("a", "conv", 1.0), layer("b", "query", 1.0)]
    after = [layer("a", "conv", 1.1), layer("b", "query", 3.0)]
    assert [group.module for group in compare_builds(before, after, NODES).slower] == ["m.query", "m.conv"]


def test_a_little_lost_without_a_product_is_no_line() -> None:
    before = [layer("a", "conv", 10.0), layer("n", "norm", 0.01)]
    after = [layer("a", "conv", 5.0, "int8"), layer("n", "norm", 0.02)]
    assert compare_builds(before, after, NODES).slower == ()


def test_reformats_of_both_builds_count_by_module() -> None:
    before = [layer("a", "conv", 1.0), layer("r", "", 0.1)]
    after = [layer("a", "conv", 0.5, "int8"), layer("r1", "", 0.3), layer("r2", "", 0.3)]
    group = compare_builds(before, after, NODES).slower[0]
    assert group.lost_ms == pytest.approx(0.5)
    assert group.why == ("2 kernels where there was 1: 1 to change layout or type",)


def test_one_and_none_are_spoken_of_as_such() -> None:
    before = [layer("a", "conv", 1.0)]
    after = [layer("a", "conv", 0.5, "int8"), layer("cast", "", 0.1)]
    assert reasons(before, after) == ["1 kernel where there was none: 1 to change layout or type"]


def test_without_times_only_what_speaks_against_it_is_told() -> None:
    before = [layer("a", "conv relu"), layer("mha", "query softmax values")]
    after = [layer("a", "conv relu", precision="int8"), layer("q", "query"), layer("s", "softmax values")]
    found = compare_builds(before, after, NODES, timed=False)
    assert found.ratio is None
    assert [group.why for group in found.slower] == [
        (
            "still computed in fp16",
            "attention is no longer one kernel",
            "2 kernels where there was 1: 1 for what was fused before",
        )
    ]
    assert found.slower[0].before_ms is None


def test_an_engines_table_is_its_kernels() -> None:
    row = {"name": "k", "kind": "gemm", "nodes": ["query"], "precision": "int8", "role": "gemm"}
    host = {"name": "h", "kind": "shape_call", "nodes": [], "precision": "unknown", "role": "shape"}
    found = engine_layers([row, host], NODES)
    assert [(one.name, one.module, one.ms) for one in found] == [("k", "m.query", 0.0)]


def test_it_goes_through_json_and_back() -> None:
    found = compare_builds([layer("a", "conv", 1.0)], [layer("b", "conv", 1.1)], NODES, names=("x", "y"))
    assert Builds.from_json(json.loads(json.dumps(found.to_json()))) == found
