"""A bound is a bound: whatever the graph, no value of it exceeds what `bounds` says of inputs within their range."""

from __future__ import annotations

import math

import graphs
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtrt.precision.bounds import Bounds
from mmtrt.precision.graph import typed
from mmtrt.runtimes.ort import session_from
from mmtrt.tensors import Array


def every_value(proto: onnx.ModelProto, feeds: dict[str, Array]) -> dict[str, Array]:
    wide = typed(proto)
    floats = [v for v in wide.graph.value_info if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]
    have = {output.name for output in wide.graph.output}
    wide.graph.output.extend(v for v in floats if v.name not in have)
    session = session_from(wide, "parity")
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


UNARY = ["Relu", "LeakyRelu", "Abs", "Neg", "Sigmoid", "Tanh", "Erf", "Softmax", "Identity"]
BINARY = ["Add", "Sub", "Mul"]


@given(data=st.data(), seed=st.integers(0, 2**31), steps=st.integers(1, 8), scale=st.floats(0.01, 50))
@settings(max_examples=60, deadline=None)
def test_no_value_exceeds_its_bound(data: st.DataObject, seed: int, steps: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    nodes, constants, values = [], {}, ["x"]
    for index in range(steps):
        kind = data.draw(st.sampled_from([*UNARY, *BINARY, "MatMul", "Gemm", "Div", "LayerNormalization", "attention"]))
        source, result = data.draw(st.sampled_from(values)), f"v{index}"
        if kind in UNARY:
            nodes.append(graphs.node(kind, [source], result))
        elif kind in {"MatMul", "Gemm"}:
            constants[f"w{index}"] = (scale * rng.standard_normal((6, 6))).astype(np.float32)
            more = {"transB": int(rng.integers(2)), "alpha": 1.5} if kind == "Gemm" else {}
            nodes.append(graphs.node(kind, [source, f"w{index}"], result, **more))
        elif kind == "LayerNormalization":
            constants[f"g{index}"] = (scale * rng.standard_normal(6)).astype(np.float32)
            constants[f"b{index}"] = rng.standard_normal(6).astype(np.float32)
            nodes.append(graphs.node(kind, [source, f"g{index}", f"b{index}"], result, axis=-1))
        elif kind == "Div":
            constants[f"d{index}"] = np.float32(0.1 + scale)
            nodes.append(graphs.node(kind, [source, f"d{index}"], result))
        elif kind == "attention":
            weights = f"p{index}"
            nodes.append(graphs.node("Softmax", [source], weights, axis=data.draw(st.sampled_from([0, 1, -1]))))
            nodes.append(graphs.node("MatMul", [weights, data.draw(st.sampled_from(values))], result))
        else:
            nodes.append(graphs.node(kind, [source, data.draw(st.sampled_from(values))], result))
        values.append(result)
    nodes.append(graphs.node("Identity", [values[-1]], "y"))
    proto = graphs.model(nodes, {"x": [6, 6]}, {"y": [6, 6]}, {k: np.asarray(v) for k, v in constants.items()})
    x = (3 * rng.standard_normal((6, 6))).astype(np.float32)
    limits = Bounds(ir.from_proto(typed(proto))).largest({"x": float(np.abs(x).max())})
    for name, array in every_value(proto, {"x": x}).items():
        if np.isfinite(array).all():
            assert np.abs(array).max() <= limits[name] * (1 + 1e-5) + 1e-6, name


@pytest.mark.parametrize("kind", ["residual_cnn", "mlp"])
def test_an_ordinary_model_needs_no_watching(kind: str) -> None:
    model = ir.from_proto(typed(getattr(graphs, kind)(np.random.default_rng(0))))
    assert Bounds(model).unbounded({}, 32752) == []


def test_what_no_rule_bounds_is_watched_once_per_chain() -> None:
    nodes = [graphs.node("Exp", ["x"], "e"), graphs.node("Relu", ["e"], "r"), graphs.node("Neg", ["r"], "y")]
    proto = graphs.model(nodes, {"x": ["batch", 4]}, {"y": ["batch", 4]}, {})
    model = ir.from_proto(typed(proto))
    assert Bounds(model).unbounded({}, 32752) == ["e"]
    assert Bounds(model).largest({"x": 1.0})["y"] == math.inf
    assert Bounds(model).largest({"x": 1.0, "e": 2.7})["y"] == pytest.approx(2.7)
