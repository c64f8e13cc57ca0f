"""What the precision passes ask of a graph: its multiply-accumulate nodes, constants, shapes and modules."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from mmtrt.errors import ModelError
from mmtrt.onnx_files import MODULE_KEY
from mmtrt.tensors import Array

__all__ = [
    "MAC_OPS",
    "MODULE_KEY",
    "MacNode",
    "all_nodes",
    "attribute",
    "behind_dq",
    "constant",
    "embedded",
    "is_float",
    "mac_nodes",
    "module_of",
    "typed",
    "usual_shapes",
    "weight_of",
    "with_sizes",
    "with_weights_in",
]

MAC_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True)
class MacNode:
    """A node whose work is multiply-accumulates: `macs` at the usual shape, 0 where the shape is unknown.

    `weight` is the constant operand's index among the inputs, None where both operands are activations;
    `channel_axis` is the output channels' axis in the weight.
    """

    node: ir.Node
    macs: int
    weight: int | None
    channel_axis: int | None

    @property
    def name(self) -> str:
        """The ONNX node's name."""
        return self.node.name or "?"

    @property
    def activations(self) -> tuple[int, ...]:
        """Indices of the inputs that are activations."""
        return tuple(i for i in (0, 1) if i != self.weight)


def typed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give each value a type and each node a name: what the exporter left out."""
    try:
        told = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:
        raise ModelError(f"the shapes in the model contradict each other: {error}", fix="Export it again.") from error
    for node in told.graph.node:
        if not node.name and node.output:
            node.name = f"{node.op_type}:{node.output[0]}"
    return told


def with_weights_in(model: onnx.ModelProto, folder: Path) -> ir.Model:
    """Return the graph of a model whose external data lie in `folder`: they are mapped when they are asked for."""
    graph = ir.from_proto(model)
    ir.external_data.set_base_dir(graph.graph, str(folder))
    return graph


def all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Yield the main graph's nodes in order; those of subgraphs are left to their owner."""
    yield from model.graph


def attribute(node: ir.Node, name: str, default: int) -> int:
    """Return an integer attribute."""
    found = node.attributes.get(name)
    return default if found is None else int(found.value)


def constant(value: ir.Value | None) -> Array | None:
    """Return a value's array where it is an initialiser or a Constant node's output."""
    if value is None:
        return None
    if value.const_value is not None and (value.is_initializer() or value.producer() is not None):
        return value.const_value.numpy()
    producer = value.producer()
    if producer is not None and producer.op_type == "Constant" and "value" in producer.attributes:
        return producer.attributes["value"].as_tensor().numpy()
    return None


def weight_of(value: ir.Value | None) -> Array | None:
    """Return a constant operand, also where it is stored as codes behind DequantizeLinear."""
    array = constant(value)
    producer = value.producer() if value is not None else None
    if array is not None or producer is None or producer.op_type != "DequantizeLinear":
        return array
    codes, scale = constant(producer.inputs[0]), constant(producer.inputs[1])
    if codes is None or scale is None:
        return None
    shape = [1] * codes.ndim
    if scale.size > 1:
        shape[attribute(producer, "axis", 1)] = -1
    return codes.astype(np.float32) * scale.reshape(shape).astype(np.float32)


def behind_dq(mac: MacNode) -> bool:
    """Tell whether a node takes both of its operands from DequantizeLinear, casts and moves between left aside."""
    return all(_from_dq(value) for value in mac.node.inputs[:2])


def _from_dq(value: ir.Value | None) -> bool:
    node = value.producer() if value is not None else None
    while node is not None and node.op_type in {"Cast", "Transpose", "Reshape", "Identity"}:
        value = node.inputs[0]
        node = value.producer() if value is not None else None
    return node is not None and node.op_type == "DequantizeLinear"


def is_float(value: ir.Value | None) -> bool:
    """Tell whether a value is float32, float16 or bfloat16."""
    return value is not None and value.dtype in {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}


def module_of(node: ir.Node) -> str:
    """Return the PyTorch module that a node came from, else its own name."""
    return node.metadata_props.get(MODULE_KEY) or node.name or "?"


def with_sizes(model: onnx.ModelProto, sizes: Mapping[str, int]) -> onnx.ModelProto:
    """Return the model with numbers for the named sizes of its inputs and outputs, and nothing told of inner values."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]
    for value in (*fixed.graph.input, *fixed.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
    return fixed


def usual_shapes(model: onnx.ModelProto, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Shapes of all values when the named sizes have these numbers; a value of unknown shape is left out."""
    inferred = onnx.shape_inference.infer_shapes(with_sizes(model, sizes), data_prop=True)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in inferred.graph.initializer}
    for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def mac_nodes(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> list[MacNode]:
    """Return Conv, ConvTranspose, Gemm and MatMul nodes with their work, in the graph's order."""
    found = []
    for node in all_nodes(model):
        if node.op_type not in MAC_OPS or node.domain not in {"", "ai.onnx"} or not is_float(node.outputs[0]):
            continue
        operands = [constant(value) for value in node.inputs[:2]]
        weight = 1 if operands[1] is not None else 0 if operands[0] is not None else None
        axis = _channel_axis(node, weight, operands[weight].ndim) if weight is not None else None  # type: ignore[union-attr]
        found.append(MacNode(node, _macs(node, shapes), weight, axis))
    return found


def _channel_axis(node: ir.Node, weight: int, rank: int) -> int:
    """TensorRT's rule: Conv 0, ConvTranspose 1, Gemm 0 with transB else 1, MatMul the last; mirrored on the left."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    if node.op_type == "Gemm":
        if weight == 1:
            return 0 if attribute(node, "transB", 0) else 1
        return 1 if attribute(node, "transA", 0) else 0
    return rank - 1 if weight == 1 else max(rank - 2, 0)


def _macs(node: ir.Node, shapes: Mapping[str, tuple[int, ...]]) -> int:
    names = [value.name or "" for value in (*node.inputs[:2], node.outputs[0]) if value is not None]
    known = [shapes.get(name) for name in names]
    if len(known) < 3 or any(shape is None for shape in known):
        return 0
    left, right, out = (shape or () for shape in known)
    if node.op_type == "Conv":
        return math.prod(out) * math.prod(right[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(left) * math.prod(right[1:])
    if node.op_type == "Gemm":
        return math.prod(out) * left[0 if attribute(node, "transA", 0) else 1]
    return math.prod(out) * (left[-1] if left else 1)


def embedded(model: ir.Model) -> onnx.ModelProto:
    """Return a graph with all its weights inside, those that were mapped too."""
    ir.external_data.load_to_model(model)
    return ir.to_proto(model)
