"""Graphs that are not a chain of operators: branches that run or don't, weights beside the file, other shapes."""

from __future__ import annotations

from pathlib import Path

import graphs
import numpy as np
import onnx
from converting import sample_set
from onnx import TensorProto, helper, numpy_helper

from mmtrt.artifacts import StageCache
from mmtrt.pipeline.checking import CheckRequest
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.locating import locate_files
from mmtrt.results import Located

WIDTH = 8


def located(candidate: Path, reference: Path, reduce: Path | None = None) -> Located:
    rng = np.random.default_rng(3)
    samples = sample_set([{"x": rng.standard_normal(WIDTH).astype(np.float32)} for _ in range(3)])
    request = CheckRequest(candidate=str(candidate), against=str(reference), samples=samples, stress=(), reduce=reduce)
    return locate_files(Context(cache=StageCache(None)), request)


def branching(weight: float) -> onnx.ModelProto:
    """`y = relu(x) + weight` where the sum of `x` is positive, else minus it; then times 2."""
    constants = {"w": np.full(WIDTH, weight, np.float32), "two": np.float32(2), "zero": np.float32(0)}

    def branch(op: str) -> onnx.GraphProto:
        made = helper.make_tensor_value_info(f"{op}_out", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(op, ["r", "w"], [f"{op}_out"], name=op)], op, [], [made])

    nodes = [
        graphs.node("Relu", ["x"], "r"),
        helper.make_node("ReduceSum", ["x"], ["s"], name="s", keepdims=0),
        graphs.node("Greater", ["s", "zero"], "c"),
        graphs.node("If", ["c"], "i", then_branch=branch("Add"), else_branch=branch("Sub")),
        graphs.node("Mul", ["i", "two"], "y"),
    ]
    return graphs.model(nodes, {"x": ["batch", WIDTH]}, {"y": ["batch", WIDTH]}, constants)


def test_a_fault_inside_a_branch_is_its_node_s(tmp_path: Path) -> None:
    reference = graphs.saved(branching(1.0), tmp_path / "a.onnx")
    assert located(reference, reference).first is None
    found = located(graphs.saved(branching(-3.0), tmp_path / "b.onnx"), reference, tmp_path / "small.onnx")
    assert found.first is not None
    assert (found.first.op, found.first.tensor) == ("If", "i")
    small = onnx.load(str(tmp_path / "small.onnx"))
    onnx.checker.check_model(small)
    assert [node.op_type for node in small.graph.node] == ["If"]


def test_weights_in_a_file_of_their_own_are_read_from_there(tmp_path: Path) -> None:
    model = graphs.mlp(np.random.default_rng(0), WIDTH)
    reference = graphs.saved(model, tmp_path / "a.onnx")
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "w1")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).T.copy(), "w1"))
    candidate = tmp_path / "b.onnx"
    onnx.save(model, str(candidate), save_as_external_data=True, location="b.data", size_threshold=0)
    found = located(candidate, reference, tmp_path / "small.onnx")
    assert found.first is not None
    assert found.first.node == "m1_MatMul"
    # The small model has its weight inside: it goes into a report as one file.
    small = onnx.load(str(tmp_path / "small.onnx"), load_external_data=False)
    assert [tensor.data_location for tensor in small.graph.initializer] == [TensorProto.DEFAULT]


def test_a_tensor_of_another_shape_is_the_first_bad_layer(tmp_path: Path) -> None:
    def model(start: int) -> onnx.ModelProto:
        constants = {"from": np.array([start]), "to": np.array([WIDTH]), "axis": np.array([1])}
        nodes = [
            graphs.node("Relu", ["x"], "r"),
            graphs.node("Slice", ["r", "from", "to", "axis"], "cut"),
            graphs.node("ReduceMean", ["cut", "axis"], "y", keepdims=1),
        ]
        return graphs.model(nodes, {"x": ["batch", WIDTH]}, {"y": ["batch", 1]}, constants)

    reference = graphs.saved(model(0), tmp_path / "a.onnx")
    found = located(graphs.saved(model(1), tmp_path / "b.onnx"), reference)
    assert found.first is not None
    assert (found.first.op, found.first.note) == ("Slice", "its shape is another one than the reference's")


def test_a_constant_output_is_reduced_as_it_is_and_a_node_without_a_name_has_its_tensor_s(tmp_path: Path) -> None:
    def model(value: float) -> onnx.ModelProto:
        nodes = [graphs.node("Relu", ["x"], "y"), helper.make_node("Neg", ["w"], ["z"])]
        constants = {"w": np.full(WIDTH, value, np.float32)}
        return graphs.model(nodes, {"x": ["batch", WIDTH]}, {"y": ["batch", WIDTH], "z": [WIDTH]}, constants)

    reference = graphs.saved(model(1), tmp_path / "a.onnx")
    found = located(graphs.saved(model(2), tmp_path / "b.onnx"), reference, tmp_path / "small.onnx")
    assert found.first is not None
    assert (found.first.op, found.first.node) == ("Neg", "z")
    assert np.load(tmp_path / "small.npz")["output.z"].shape == (WIDTH,)


def test_rows_that_are_no_events_stay_together(tmp_path: Path) -> None:
    def model(value: float) -> onnx.ModelProto:
        constants = {"w": np.full(WIDTH, value, np.float32), "shape": np.array([-1])}
        nodes = [
            graphs.node("Mul", ["x", "w"], "m"),
            graphs.node("Reshape", ["m", "shape"], "flat"),
            graphs.node("Sigmoid", ["flat"], "y"),
        ]
        return graphs.model(nodes, {"x": [1, WIDTH]}, {"y": [WIDTH]}, constants)

    reference = graphs.saved(model(1), tmp_path / "a.onnx")
    found = located(graphs.saved(model(3), tmp_path / "b.onnx"), reference, tmp_path / "small.onnx")
    assert found.reduced is not None
    assert found.reduced["sqnr_db"] is not None
