"""Small ONNX graphs that engines are built from, made node by node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 18


def _save(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: dict[str, Any]) -> Path:
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, constants)
    domains = {node.domain for node in nodes} - {""}
    opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.save(model, str(path))
    return path


def _value(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def mlp(path: Path, *, batch: int | str = "batch", activation: str = "Relu", dtype: Any = np.float32) -> Path:
    """`x (batch, 16)` to `y (batch, 8)`, over two matrix products; an unknown activation is of domain `odd`."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    rng = np.random.default_rng(0)
    domain = "" if activation == "Relu" else "odd"
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], name="/fc1/MatMul"),
        helper.make_node("Add", ["a", "b1"], ["b"], name="/fc1/Add"),
        helper.make_node(activation, ["b"], ["c"], name=f"/act/{activation}", domain=domain),
        helper.make_node("MatMul", ["c", "w2"], ["y"], name="/fc2/MatMul"),
    ]
    weights = {
        "w1": rng.normal(size=(16, 32)).astype(dtype),
        "b1": rng.normal(size=32).astype(dtype),
        "w2": rng.normal(size=(32, 8)).astype(dtype),
    }
    return _save(path, nodes, [_value("x", [batch, 16], kind)], [_value("y", [batch, 8], kind)], weights)


def conv_int8(path: Path, *, zero_point: int = 0, scale: float = 0.02, int32_bias: str = "no") -> Path:
    """`x (batch, 4, 16, 16)` to `y (batch, 16)`: a convolution and a matrix product behind explicit Q/DQ."""
    rng = np.random.default_rng(0)
    nodes = [
        *_qdq("x", "xd", "/conv"),
        helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], name="/conv/wdq", axis=0),
        helper.make_node("Conv", ["xd", "wd", "bias"], ["c"], name="/conv/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="/relu/Relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="/pool/Pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="/flat/Flatten"),
        *_qdq("f", "fd", "/fc"),
        helper.make_node("DequantizeLinear", ["fq", "fs", "fz"], ["fwd"], name="/fc/wdq", axis=1),
        helper.make_node("MatMul", ["fd", "fwd"], ["y"], name="/fc/MatMul"),
    ]
    weights = {
        "s": np.float32(scale),
        "z": np.int8(zero_point),
        "wq": rng.integers(-127, 128, (8, 4, 3, 3)).astype(np.int8),
        "ws": np.full(8, 0.01, np.float32),
        "wz": np.zeros(8, np.int8),
        "fq": rng.integers(-127, 128, (8, 16)).astype(np.int8),
        "fs": np.full(16, 0.01, np.float32),
        "fz": np.zeros(16, np.int8),
    }
    if int32_bias == "yes":
        weights["bq"] = np.ones(8, np.int32)
        nodes.insert(2, helper.make_node("DequantizeLinear", ["bq", "ws"], ["bias"], name="/conv/bdq", axis=0))
    else:
        weights["bias"] = np.ones(8, np.float32)
    return _save(path, nodes, [_value("x", ["batch", 4, 16, 16])], [_value("y", ["batch", 16])], weights)


def _qdq(source: str, target: str, module: str) -> list[Any]:
    return [
        helper.make_node("QuantizeLinear", [source, "s", "z"], [f"{source}_q"], name=f"{module}/q"),
        helper.make_node("DequantizeLinear", [f"{source}_q", "s", "z"], [target], name=f"{module}/dq"),
    ]


def deconv_int8(path: Path) -> Path:
    """A transposed convolution behind explicit Q/DQ."""
    nodes = [
        *_qdq("x", "xd", "/up"),
        helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], name="/up/wdq", axis=1),
        helper.make_node("ConvTranspose", ["xd", "wd"], ["y"], name="/up/ConvTranspose", strides=[2, 2]),
    ]
    weights = {
        "s": np.float32(0.02),
        "z": np.int8(0),
        "wq": np.random.default_rng(0).integers(-127, 128, (16, 8, 2, 2)).astype(np.int8),
        "ws": np.full(8, 0.01, np.float32),
        "wz": np.zeros(8, np.int8),
    }
    inputs, outputs = [_value("x", ["batch", 16, 8, 8])], [_value("y", ["batch", 8, 16, 16])]
    return _save(path, nodes, inputs, outputs, weights)


def weight_only(path: Path) -> Path:
    """A matrix product whose weights alone are INT8."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], name="/fc/wdq", axis=1),
        helper.make_node("MatMul", ["x", "wd"], ["y"], name="/fc/MatMul"),
    ]
    weights = {
        "wq": rng.integers(-127, 128, (64, 64)).astype(np.int8),
        "ws": np.full(64, 0.01, np.float32),
        "wz": np.zeros(64, np.int8),
    }
    return _save(path, nodes, [_value("x", ["batch", 64])], [_value("y", ["batch", 64])], weights)


def tokens(path: Path) -> Path:
    """`ids (batch, tokens)` and `image (batch, 16)` to `y (batch, 16)`: two inputs share the batch."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"], name="/embed/Gather"),
        helper.make_node("ReduceMean", ["e", "axes"], ["m"], name="/mean/Mean", keepdims=0),
        helper.make_node("Add", ["m", "image"], ["y"], name="/fuse/Add"),
    ]
    weights = {"table": rng.normal(size=(50, 16)).astype(np.float32), "axes": np.array([1])}
    inputs = [_value("ids", ["batch", "tokens"], TensorProto.INT64), _value("image", ["batch", 16])]
    return _save(path, nodes, inputs, [_value("y", ["batch", 16])], weights)


def reshape_by_input(path: Path) -> Path:
    """`shape (2)` decides the shape of the output."""
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"], name="/reshape/Reshape")]
    inputs = [_value("x", [4, 4]), _value("shape", [2], TensorProto.INT64)]
    return _save(path, nodes, inputs, [_value("y", ["a", "b"])], {})
