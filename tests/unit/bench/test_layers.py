from __future__ import annotations

import json
from typing import Any

import pytest

from mmtrt.bench.layers import LayerTimes, Nodes, engine_layer_times, placed

NODES = Nodes(
    branches={"conv": "image", "relu": "image", "words": "text", "query": "text", "meet": "fusion", "dq": "constant"},
    modules={"conv": "image_encoder.stem", "relu": "image_encoder", "query": "text_encoder.query", "meet": "fusion"},
    ops={"conv": "Conv", "relu": "Relu", "words": "Gather", "query": "MatMul", "meet": "Add", "dq": "DequantizeLinear"},
)


def row(name: str, nodes: list[str], inputs: list[str], outputs: list[str], **more: Any) -> dict[str, Any]:
    told = {"kind": "gemm", "precision": "fp16", "modules": [NODES.modules[n] for n in nodes if n in NODES.modules]}
    tensors = {"inputs": [{"name": name} for name in inputs], "outputs": [{"name": name} for name in outputs]}
    return {"name": name, "nodes": nodes, **tensors, **told, **more}


ROWS = [
    row("stem", ["conv", "relu"], ["image"], ["a"]),
    row("reformat", [], ["a"], ["b"], kind="reformat"),
    row("text", ["words"], ["ids"], ["c"]),
    row("joined", ["conv", "query", "dq"], ["b", "c"], ["d"]),
]


def times(timed: list[list[tuple[str, float]]], nodes: Nodes | None = NODES, **more: Any) -> LayerTimes:
    return engine_layer_times(file="m.engine", runs="TensorRT", rows=ROWS, timed=timed, nodes=nodes, **more)


RUN = [("stem", 0.4), ("reformat", 0.1), ("text", 0.2), ("joined", 0.3)]


def test_layers_come_in_order_with_their_branches() -> None:
    found = times([RUN])
    assert [layer.name for layer in found.layers] == ["stem", "reformat", "text", "joined"]
    assert [layer.branch for layer in found.layers] == ["image", "image", "text", "image + text"]
    assert [layer.share for layer in found.layers] == pytest.approx([0.4, 0.1, 0.2, 0.3])
    assert found.layers[0].module == "image_encoder.stem"


def test_a_kernel_of_two_branches_counts_for_both() -> None:
    found = times([RUN])
    assert found.branches["image"].ms == pytest.approx(0.4 + 0.1 + 0.15)
    assert found.branches["text"].ms == pytest.approx(0.2 + 0.15)
    assert found.mixed == pytest.approx(0.3)
    assert list(found.branches) == ["image", "text"]


def test_neither_a_run_that_was_disturbed_counts_nor_a_lucky_one() -> None:
    slow, lucky = ([(name, ms * factor) for name, ms in RUN] for factor in (10, 0.1))
    found = times([RUN, slow, RUN, lucky, RUN])
    assert found.sum_ms == pytest.approx(1.0)
    assert found.profiled == 5


def test_what_is_attributed_is_the_sum_over_the_latency() -> None:
    assert times([RUN], latency_ms=1.25).attributed == pytest.approx(0.8)
    assert times([RUN]).attributed is None


def test_a_layer_that_the_table_lacks_is_unknown_and_told() -> None:
    found = times([[*RUN, ("ghost", 1.0)]])
    assert found.branches["unknown"].ms == 1.0
    assert found.unknown == pytest.approx(0.5)
    assert found.notes == ("1 layers are not in the engine's table: ghost",)


def test_without_the_onnx_a_branch_is_the_outermost_module() -> None:
    found = times([RUN], nodes=None)
    assert [layer.branch for layer in found.layers] == [
        "image_encoder",
        "image_encoder",
        "unknown",
        "image_encoder + text_encoder",
    ]


def test_what_makes_constants_ready_counts_nowhere() -> None:
    assert placed(["dq", "query"], NODES)["branch"] == "text"
    assert placed(["dq"], NODES)["branch"] == "unknown"


def test_without_a_matrix_product_each_node_counts() -> None:
    assert placed(["relu", "words", "meet"], NODES)["parts"] == pytest.approx(
        {"image": 1 / 3, "text": 1 / 3, "fusion": 1 / 3}
    )
    assert placed(["relu", "words", "query"], NODES)["parts"] == {"text": 1.0}


def test_reformats_in_a_ring_end() -> None:
    ring = [row("one", [], ["y"], ["x"]), row("two", [], ["x"], ["y"])]
    found = engine_layer_times(file="", runs="", rows=ring, timed=[[("one", 1.0), ("two", 1.0)]], nodes=NODES)
    assert found.unknown == 1


def test_no_runs_are_an_error() -> None:
    with pytest.raises(ValueError, match="no run"):
        times([])


def test_it_goes_through_json_and_back() -> None:
    found = times([RUN], latency_ms=1.2)
    assert LayerTimes.from_json(json.loads(json.dumps(found.to_json()))) == found
