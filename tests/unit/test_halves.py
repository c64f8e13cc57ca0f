"""Each FP16 result is rounded, as numpy rounds it, and nothing else of a model changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from mmtrt.errors import ModelError
from mmtrt.runtimes.halves import rounded_halves
from mmtrt.runtimes.ort import OrtRunner
from mmtrt.tensors import Array

CHAIN = (("Mul", ("half", "half"), "square"), ("Add", ("square", "one"), "sum"), ("Sqrt", ("sum",), "root"))


def chain(dtype: int = TensorProto.FLOAT16) -> onnx.ModelProto:
    """`sqrt(x * x + 1)`, all of it in a type; FP32 goes in and comes out."""
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=dtype),
        *(helper.make_node(op, inputs, [output]) for op, inputs, output in CHAIN),
        helper.make_node("Cast", ["root"], ["y"], to=TensorProto.FLOAT),
    ]
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [numpy_helper.from_array(np.ones((), kind), "one")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(proto: onnx.ModelProto, folder: Path, x: Array) -> Array:
    onnx.save(proto, str(folder / "model.onnx"))
    with OrtRunner(folder / "model.onnx", "parity") as runner:
        return runner.infer({"x": x})["y"]


def test_what_overflows_in_fp16_overflows(tmp_path: Path) -> None:
    x = np.array([3, 300], np.float32)

    assert list(run(chain(), tmp_path, x)) == [np.float32(np.float16(np.sqrt(np.float16(10)))), np.inf]
    assert np.isfinite(run(chain(TensorProto.FLOAT), tmp_path, x)).all()
    # By itself the runtime says what no GPU would.
    session = ort.InferenceSession(chain().SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.isfinite(session.run(None, {"x": x})[0]).all()


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(-255, 255, width=32), min_size=1, max_size=8))
def test_each_step_is_rounded_as_numpy_rounds_it(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    half = np.array(values, np.float32).astype(np.float16)
    wanted = np.sqrt(half * half + np.float16(1))

    made = run(chain(), tmp_path_factory.mktemp("halves"), half.astype(np.float32))

    np.testing.assert_array_equal(made, wanted.astype(np.float32))


def test_a_model_without_fp16_is_left_alone() -> None:
    proto = chain(TensorProto.FLOAT)
    halves = rounded_halves(chain())

    assert rounded_halves(proto) is proto
    assert rounded_halves(halves) is halves


def test_names_stay_and_what_only_moves_values_stays_fp16() -> None:
    proto = chain()
    proto.graph.node.insert(1, helper.make_node("Identity", ["half"], ["same"]))
    proto.graph.node[2].input[0] = "same"
    names = {name for node in proto.graph.node for name in node.output}

    proto = rounded_halves(proto)
    onnx.checker.check_model(proto)
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.output)}
    assert {name for node in proto.graph.node for name in node.output} > names
    assert {name for name, kind in kinds.items() if kind == TensorProto.FLOAT16} == names - {"y"}
    assert [node.op_type for node in proto.graph.node].count("Identity") == 1


ONE = numpy_helper.from_array(np.ones((), np.float16), "one")
HALF = TensorProto.FLOAT16


def node(op: str, inputs: str, outputs: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def branch(name: str) -> onnx.GraphProto:
    """The root of the square of `x`, which is around it."""
    nodes = [node("Mul", "x x", f"{name}.square"), node("Sqrt", f"{name}.square", f"{name}.root")]
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(f"{name}.root", HALF, ["n"])])


def function() -> onnx.FunctionProto:
    nodes = [helper.make_node("Constant", [], ["k"], value=ONE), node("Mul", "a k", "m"), node("Mul", "m m", "b")]
    return helper.make_function("local", "Square", ["a"], ["b"], nodes, [helper.make_opsetid("", 18)])


SQUARE_ROOT = [node("Mul", "x x", "s"), node("Sqrt", "s", "y")]
GRAPHS: dict[str, tuple[list[onnx.NodeProto], list[onnx.TensorProto]]] = {
    "halves are only given": (SQUARE_ROOT, []),
    "a constant as a node": (
        [helper.make_node("Constant", [], ["c"], value=ONE), node("Mul", "x c", "m"), *SQUARE_ROOT],
        [],
    ),
    "names that ours would take": (
        [node("Mul", "x one", "x.wide"), node("Mul", "x.wide x", "y.exact"), node("Sqrt", "y.exact", "y")],
        [ONE],
    ),
    "a branch": (
        [
            node("If", "yes", "i", then_branch=branch("t"), else_branch=branch("e")),
            node("Mul", "i one", "y"),
        ],
        [ONE, numpy_helper.from_array(np.array(True), "yes")],
    ),
    "values that are added to others": (
        [node("ScatterElements", "x at x", "s", reduction="mul"), node("Sqrt", "s", "y")],
        [numpy_helper.from_array(np.array([0, 1]), "at")],
    ),
    "a type that an attribute names": (
        [
            helper.make_node("Unsqueeze", ["x", "axis"], ["column"]),
            helper.make_node("EyeLike", ["column"], ["eye"], dtype=HALF),
            node("ReduceMax", "eye all", "c", keepdims=0),
            node("Mul", "x c", "m"),
            *SQUARE_ROOT,
        ],
        [numpy_helper.from_array(np.array([1]), "axis"), numpy_helper.from_array(np.array([0, 1]), "all")],
    ),
    "a function with constants of its own": (
        [node("Square", "x", "s", domain="local"), node("Mul", "s one", "t"), node("Sqrt", "t", "y")],
        [ONE],
    ),
}


@pytest.mark.parametrize("kind", GRAPHS)
def test_a_square_overflows_wherever_it_is(kind: str, tmp_path: Path) -> None:
    nodes, constants = GRAPHS[kind]
    values = [helper.make_tensor_value_info(name, HALF, ["n"]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=[function()])

    np.testing.assert_array_equal(run(proto, tmp_path, np.array([3, 300], np.float16)), [3, np.inf])


def test_types_that_don_t_agree_are_refused_and_not_cast(tmp_path: Path) -> None:
    proto = chain()
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((), np.float32), "one"))

    with pytest.raises(ModelError, match=r"inconsistent type|bound to different types"):
        run(proto, tmp_path, np.array([3], np.float32))
