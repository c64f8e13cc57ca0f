"""Rows of activations: what a weight really meets, whatever the layout, and the same whatever the order."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from mmtrt.precision.graph import MacNode, mac_nodes, typed
from mmtrt.precision.rows import Geometry, RowSamples, from_matrix, geometry, weight_matrix

RNG = np.random.default_rng(0)


def made(
    op: str, weight: np.ndarray, x_shape: tuple[int, ...], *, right: bool = True, **attributes: object
) -> onnx.ModelProto:
    names = ["x", "w"] if right else ["w", "x"]
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], name="node", **attributes)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x_shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def mac_of(model: onnx.ModelProto) -> MacNode:
    (mac,) = mac_nodes(ir.from_proto(typed(model)), {})
    return mac


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


CASES = {
    "product": made("MatMul", normal(5, 7), (3, 4, 5)),
    "product, weight first": made("MatMul", normal(7, 5), (3, 5, 4), right=False),
    "gemm": made("Gemm", normal(5, 7), (3, 5)),
    "gemm, weight turned": made("Gemm", normal(7, 5), (3, 5), transB=1),
    "convolution": made("Conv", normal(6, 2, 3, 3), (3, 2, 9, 8), pads=[1, 1, 1, 1]),
    "convolution, strides and odd pads": made(
        "Conv", normal(6, 2, 3, 2), (3, 2, 9, 8), strides=[2, 3], pads=[1, 0, 2, 1]
    ),
    "convolution, dilated": made("Conv", normal(6, 2, 3, 3), (3, 2, 9, 8), dilations=[2, 2], pads=[2, 2, 2, 2]),
    "convolution with one result": made("Conv", normal(6, 2, 4, 4), (3, 2, 4, 4)),
    "convolution, one by one": made("Conv", normal(6, 2, 1, 1), (3, 2, 4, 4), strides=[2, 2]),
}


@pytest.mark.parametrize("name", CASES)
def test_rows_times_the_matrix_are_results_of_the_node(name: str) -> None:
    model = CASES[name]
    mac = mac_of(model)
    shape = tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)
    x = normal(*shape)
    how = geometry(mac)
    assert how is not None
    rows = RowSamples({"x": [how]})
    rows.add("x", x, rows.wanted({"x": x}), len(x))
    kept = rows.rows("x", how)
    weight = numpy_helper.to_array(model.graph.initializer[0])
    (y,) = ReferenceEvaluator(model).run(None, {"x": x})
    # Results with the node's channels last, one a row.
    axis = 1 if mac.node.op_type == "Conv" or name == "product, weight first" else -1
    results = np.moveaxis(y, axis, -1).reshape(-1, 6 if mac.node.op_type == "Conv" else 7)
    for row in kept @ weight_matrix(mac, weight):
        assert np.abs(results - row).max(axis=1).min() < 1e-4
    assert len(kept) == (3 if mac.node.op_type == "Gemm" or "one result" in name else 12)
    assert np.array_equal(from_matrix(mac, weight_matrix(mac, weight), weight.shape), weight)


@pytest.mark.parametrize(
    "model",
    [
        made("Conv", normal(6, 2, 3), (3, 2, 9)),
        made("Conv", normal(6, 1, 3, 3), (3, 2, 9, 9), group=2),
        made("Conv", normal(6, 2, 3, 3), (3, 2, 9, 9), auto_pad="SAME_UPPER"),
        made("MatMul", normal(3, 5, 7), (3, 4, 5)),
    ],
)
def test_where_rows_are_not_kept(model: onnx.ModelProto) -> None:
    assert geometry(mac_of(model)) is None


TOKENS = Geometry()


def collected(samples: np.ndarray, size: int) -> RowSamples:
    rows = RowSamples({"x": [TOKENS]})
    for first in range(0, len(samples), size):
        batch = samples[first : first + size]
        rows.add("x", batch, rows.wanted({"x": batch}), len(batch))
    return rows


@given(st.integers(1, 300), st.integers(1, 16), st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_neither_order_nor_batches_nor_parts_change_what_is_kept(count: int, size: int, random: object) -> None:
    samples = normal(count, 6, 3)
    order = list(range(count))
    random.shuffle(order)  # type: ignore[attr-defined]
    whole = collected(samples, 7).rows("x", TOKENS)
    assert np.array_equal(collected(samples[order], size).rows("x", TOKENS), whole)
    left, right = collected(samples[: count // 2], size), collected(samples[count // 2 :], size)
    left.merge(right)
    assert np.array_equal(left.rows("x", TOKENS), whole)
    assert len(whole) == 4 * min(count, 128)


def test_padding_is_never_kept() -> None:
    x = np.zeros((3, 5, 2), dtype=np.float32)
    kept = np.array([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    x[kept == 1] = 1
    x += np.arange(3)[:, None, None] * 0.1 * (x > 0)
    rows = RowSamples({"x": [TOKENS]})
    rows.add("x", x, rows.wanted({"x": x, "mask": kept}), 3, kept)
    assert len(rows.rows("x", TOKENS)) == 2 + 0 + 4
    assert (rows.rows("x", TOKENS) >= 1).all()
