from __future__ import annotations

import json
from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest
from graphs import model, node

from mmtrt.bench.layers import LayerTimes
from mmtrt.bench.ort_layers import ort_layer_times
from mmtrt.errors import MeasurementError
from mmtrt.onnx_files import model_spec, open_model
from mmtrt.pipeline.benching import bench_feeds
from mmtrt.precision.convert import convert
from mmtrt.precision.options import PrecisionOptions
from mmtrt.samples import open_set


def times(path: Path, duration_s: float = 0.2) -> LayerTimes:
    feeds = bench_feeds(model_spec(open_model(path)), {}, None)
    return ort_layer_times(path, feeds, duration_s=duration_s, threads=1)


def test_each_node_that_works_is_in_one_kernel(tiny: Path) -> None:
    found = times(tiny)
    names = [name for layer in found.layers for name in layer.nodes]
    moves = {"Transpose", "Reshape", "Shape"}
    works = [n.name for n in open_model(tiny).graph.node if n.op_type not in moves]
    assert sorted(name for name in names if name in works) == sorted(works)


def test_a_fused_convolution_holds_what_follows_it(tiny: Path) -> None:
    found = times(tiny)
    of_block = next(layer for layer in found.layers if layer.kind == "Conv" and layer.module == "block")
    ops = {n.name: n.op_type for n in open_model(tiny).graph.node}
    assert sorted(ops[name] for name in of_block.nodes) == ["Add", "Conv", "Relu"]
    assert of_block.branch == "image"


def test_branches_sum_to_the_whole_and_layers_too(tiny: Path) -> None:
    found = times(tiny)
    assert {"image", "text", "fusion", "head:answer", "head:match"} <= set(found.branches)
    assert sum(branch.share for branch in found.branches.values()) == pytest.approx(1)
    assert sum(layer.share for layer in found.layers) == pytest.approx(1)
    assert sum(layer.ms for layer in found.layers) == pytest.approx(found.sum_ms)
    assert found.unknown == 0
    assert found.profiled >= 10
    assert found.latency_ms is not None
    assert found.attributed == pytest.approx(found.sum_ms / found.latency_ms)


def test_the_dear_branch_is_the_one_that_has_the_work(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    nodes = [
        node("Gemm", ["large", "w"], "x"),
        node("Gemm", ["small", "v"], "y"),
        node("Concat", ["x", "y"], "out", axis=1),
    ]
    constants = {"w": graphs.weights(rng, 1024, 1024), "v": graphs.weights(rng, 8, 8)}
    made = model(nodes, {"large": [64, 1024], "small": [64, 8]}, {"out": [64, 1032]}, constants)
    found = times(graphs.saved(made, tmp_path / "two.onnx"))
    assert next(iter(found.branches)) == "large"
    # A thousand times the work of the other: whatever the machine does, this is most of it.
    assert found.branches["large"].share > 0.8


def test_int8_kernels_are_told_by_their_precision(tiny: Path, tmp_path: Path) -> None:
    target = tmp_path / "int8.onnx"
    samples = open_set(str(tiny.with_name("tiny.calib")))
    convert(tiny, target, PrecisionOptions(precision="int8", coverage="wide"), samples=samples)
    found = times(target)
    # Quantised products of an activation with a weight are one kernel of integers.
    assert "int8" in {layer.precision for layer in found.layers if "Integer" in layer.kind or "QLinear" in layer.kind}
    assert {"fp32"} >= {layer.precision for layer in found.layers if layer.kind == "Softmax"}
    assert found.unknown == 0


def test_a_loop_counts_once_with_all_that_is_in_it(tmp_path: Path) -> None:
    body = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Identity", ["go"], ["on"]),
            onnx.helper.make_node("MatMul", ["v", "w"], ["next"], name="inner"),
        ],
        "body",
        [
            onnx.helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
            onnx.helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
            onnx.helper.make_tensor_value_info("v", onnx.TensorProto.FLOAT, [2, 64]),
        ],
        [
            onnx.helper.make_tensor_value_info("on", onnx.TensorProto.BOOL, []),
            onnx.helper.make_tensor_value_info("next", onnx.TensorProto.FLOAT, [2, 64]),
        ],
    )
    nodes = [
        onnx.helper.make_node("Loop", ["times", "", "x"], ["y"], name="loop", body=body),
        node("Relu", ["y"], "out"),
    ]
    rng = np.random.default_rng(0)
    constants = {"times": np.asarray(20), "w": graphs.weights(rng, 64, 64)}
    made = model(nodes, {"x": [2, 64]}, {"out": [2, 64]}, constants)
    found = times(graphs.saved(made, tmp_path / "loop.onnx"))
    assert [layer.kind for layer in found.layers] == ["Loop", "Relu"]


def test_a_model_that_fails_is_told(tmp_path: Path) -> None:
    nodes = [node("Reshape", ["x", "size"], "y"), node("Relu", ["y"], "out")]
    made = model(
        nodes, {"x": ["batch", 4], "size": [2]}, {"out": ["a", "b"]}, {}, dtypes={"size": onnx.TensorProto.INT64}
    )
    feeds = {"x": np.ones((2, 4), np.float32), "size": np.array([3, 3])}
    with pytest.raises(MeasurementError, match="ONNX Runtime failed"):
        ort_layer_times(graphs.saved(made, tmp_path / "bad.onnx"), feeds)


def test_it_goes_through_json_and_back(tiny: Path) -> None:
    found = times(tiny)
    assert LayerTimes.from_json(json.loads(json.dumps(found.to_json()))) == found
