"""Write a plan into a graph: explicit Q/DQ as TensorRT takes it.

1. Symmetric INT8, zero point 0, weights in -127 to 127, FP32 scales.
2. Activations per tensor, one pair a value however many planned nodes use it; weights per output channel.
3. A weight is stored as INT8 with a DequantizeLinear behind it; a bias stays float.
4. Nodes that were not planned keep the value as it was.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from mmtrt.errors import ModelError
from mmtrt.precision.balance import Balance
from mmtrt.precision.graph import MODULE_KEY, MacNode, attribute, constant
from mmtrt.precision.plan import Plan
from mmtrt.precision.rows import pads
from mmtrt.precision.scales import int8_scale, quantize, weight_scales
from mmtrt.tensors import Array

__all__ = ["add_to_bias", "bias_input", "channels", "has_bias", "insert_qdq", "padded", "quantised_weight"]


Stored = Mapping[ir.Node, "tuple[Array, Array]"]
"""Codes and scales of the weights that were made already, by the node that reads them."""


def insert_qdq(
    model: ir.Model,
    plan: Plan,
    amax: Mapping[str, float],
    stored: Stored | None = None,
    balances: Mapping[str, Balance] | None = None,
) -> list[ir.Node]:
    """Insert Q/DQ in place; `amax` gives the threshold of each value that the plan names, balanced where it is.

    Returns the nodes that balance values; they compute in FP32, as what they feed does.
    """
    graph = model.graph
    pairs: dict[str, ir.Value] = {}
    balancing, thresholds = _balance_values(graph, plan, balances or {}, amax)
    weights: dict[tuple[str, int], ir.Value] = {}
    for mac in plan.nodes:
        for index in mac.activations:
            _quantise_use(graph, mac.node, index, thresholds, pairs)
        _quantise_weight(graph, mac, weights, (stored or {}).get(mac.node))
    for node, index in plan.residuals:
        _quantise_use(graph, node, index, thresholds, pairs)
    _drop_unused(model)
    return balancing


def _balance_values(
    graph: ir.Graph, plan: Plan, balances: Mapping[str, Balance], amax: Mapping[str, float]
) -> tuple[list[ir.Node], dict[str, float]]:
    """Put the balance between a value and those who take its codes, or into the LayerNormalization that makes it.

    Returns the nodes that this takes, and the thresholds with those of the balanced values.
    """
    made: list[ir.Node] = []
    thresholds = dict(amax)
    done: set[str] = set()
    for mac in plan.nodes:
        value = mac.node.inputs[mac.activations[0]]
        name = value.name or "" if value is not None else ""
        if value is None or name not in balances or name in done:
            continue
        done.add(name)
        takers = {(m.node, i) for m in plan.nodes for i in m.activations if m.node.inputs[i] is value}
        producer = value.producer()
        if producer is not None and channels(mac) == -1 and _folds(producer, value, takers):
            _fold(graph, producer, balances[name])
        else:
            border = pads(mac) if balances[name].shift.any() else ()
            nodes = _explicit(graph, value, balances[name], takers, axis=channels(mac), border=border)
            thresholds[nodes[-1].outputs[0].name or ""] = amax[name]
            made += nodes
    return made, thresholds


def channels(mac: MacNode) -> int:
    """Return the axis of the activation that holds the channels, counted from the end."""
    if mac.node.op_type == "Conv":
        return -3
    if mac.node.op_type == "MatMul":
        return -1 if mac.weight == 1 else -2
    turned = attribute(mac.node, "transA" if mac.weight == 1 else "transB", 0)
    return (-2 if turned else -1) if mac.weight == 1 else (-1 if turned else -2)


def _folds(producer: ir.Node, value: ir.Value, takers: set[tuple[ir.Node, int]]) -> bool:
    if producer.op_type != "LayerNormalization" or value.is_graph_output() or set(value.uses()) != takers:
        return False
    return constant(producer.inputs[1]) is not None and attribute(producer, "axis", -1) in {-1, _last(value)}


def _last(value: ir.Value) -> int:
    return len(value.shape) - 1 if value.shape is not None else -1


def _fold(graph: ir.Graph, norm: ir.Node, found: Balance) -> None:
    weight, name = constant(norm.inputs[1]), norm.outputs[0].name
    assert weight is not None  # noqa: S101 -- _folds looked
    bias = constant(norm.inputs[2]) if len(norm.inputs) > 2 else None
    start = np.zeros_like(found.shift) if bias is None else bias
    norm.replace_input_with(1, _initializer(graph, f"{name}.balanced_scale", (weight / found.scale).astype(np.float32)))
    shifted = _initializer(graph, f"{name}.balanced_bias", ((start - found.shift) / found.scale).astype(np.float32))
    if len(norm.inputs) < 3:
        norm.resize_inputs(3)
    norm.replace_input_with(2, shifted)


def _explicit(
    graph: ir.Graph,
    value: ir.Value,
    found: Balance,
    takers: set[tuple[ir.Node, int]],
    *,
    axis: int,
    border: tuple[int, ...],
) -> list[ir.Node]:
    name = value.name or ""
    shape = (-1, *(1,) * (-1 - axis))
    steps: list[tuple[str, str, Array]] = [("Mul", "balance", 1 / found.scale)]
    if found.shift.any():
        steps.append(("Add", "shift", -found.shift / found.scale))
    nodes: list[ir.Node] = []
    last = value
    if any(border):
        nodes.append(padded(graph, value, border))
        last = nodes[-1].outputs[0]
        for node, _ in takers:
            node.attributes["pads"] = ir.AttrInt64s("pads", [0] * len(border))
    for op, suffix, array in steps:
        factor = _initializer(graph, f"{name}.{suffix}", array.astype(np.float32).reshape(shape))
        out = _value(f"{name}.{suffix}.out", ir.DataType.FLOAT, last.shape)
        nodes.append(ir.Node("", op, [last, factor], outputs=[out], name=f"{name}.{suffix}.{op.lower()}"))
        last = out
    _place(graph, value, nodes)
    for node, index in takers:
        node.replace_input_with(index, last)
    return nodes


def padded(graph: ir.Graph, value: ir.Value, border: tuple[int, ...]) -> ir.Node:
    """Return a node, not yet in the graph, that puts a convolution's border of zeros around its input."""
    half = len(border) // 2
    widths = np.array([0, 0, *border[:half], 0, 0, *border[half:]], dtype=np.int64)
    shape = None
    if value.shape is not None:
        sizes = list(value.shape)
        for axis in range(half):
            size = sizes[2 + axis]
            sizes[2 + axis] = size + border[axis] + border[half + axis] if isinstance(size, int) else None
        shape = ir.Shape(sizes)
    out = _value(f"{value.name}.padded", value.dtype or ir.DataType.FLOAT, shape)
    amounts = _initializer(graph, f"{value.name}.pads", widths)
    return ir.Node("", "Pad", [value, amounts], outputs=[out], name=f"{value.name}.pad")


def _place(graph: ir.Graph, value: ir.Value, nodes: list[ir.Node]) -> None:
    """Put nodes right behind the value that they start from, as parts of the module that made it."""
    producer = value.producer()
    module = producer.metadata_props.get(MODULE_KEY) if producer is not None else None
    for made in nodes:
        if module:
            made.metadata_props[MODULE_KEY] = module
    if producer is not None:
        graph.insert_after(producer, nodes)
    else:
        graph.insert_before(graph[0], nodes)


def _quantise_use(
    graph: ir.Graph, node: ir.Node, index: int, amax: Mapping[str, float], pairs: dict[str, ir.Value]
) -> None:
    value = node.inputs[index]
    assert value is not None  # noqa: S101 -- the plan leaves nodes without operands alone
    name = value.name or ""
    if name not in pairs:
        pairs[name] = _pair(graph, value, int8_scale(amax[name]))
    node.replace_input_with(index, pairs[name])


def _pair(graph: ir.Graph, value: ir.Value, scale: Array) -> ir.Value:
    name = value.name or ""
    step = _initializer(graph, f"{name}.scale", scale.reshape(()))
    zero = _initializer(graph, f"{name}.zero_point", np.zeros((), dtype=np.int8))
    quantized = _value(f"{name}.int8", ir.DataType.INT8, value.shape)
    dequantized = _value(f"{name}.dequantized", ir.DataType.FLOAT, value.shape)
    q = ir.Node("", "QuantizeLinear", [value, step, zero], outputs=[quantized], name=f"{name}.q")
    dq = ir.Node("", "DequantizeLinear", [quantized, step, zero], outputs=[dequantized], name=f"{name}.dq")
    _place(graph, value, [q, dq])
    return dequantized


def _quantise_weight(
    graph: ir.Graph, mac: MacNode, done: dict[tuple[str, int], ir.Value], made: tuple[Array, Array] | None
) -> None:
    if mac.weight is None or mac.channel_axis is None:
        return
    value = mac.node.inputs[mac.weight]
    array = constant(value)
    assert value is not None and array is not None  # noqa: S101, PT018 -- a weighted node has one
    key = (value.name or "", mac.channel_axis)
    if key not in done:
        codes, scale = made or quantised_weight(mac, array)
        name = f"{key[0]}.{mac.channel_axis}" if key[0] in {k for k, _ in done} else key[0]
        done[key] = _stored(graph, mac, codes, scale, name=name)
    mac.node.replace_input_with(mac.weight, done[key])


def quantised_weight(mac: MacNode, array: Array) -> tuple[Array, Array]:
    """Return codes, of the weight's shape, and scales `(C,)`; ModelError where the weight is not finite."""
    axis = mac.channel_axis or 0
    try:
        scale = weight_scales(array, axis)
    except ValueError as error:
        raise ModelError(f"node {mac.name!r}: {error}", fix="The checkpoint itself is broken.") from None
    return quantize(array, scale, axis), scale


def _stored(graph: ir.Graph, mac: MacNode, array: Array, scale: Array, *, name: str) -> ir.Value:
    axis = mac.channel_axis or 0
    codes = _initializer(graph, f"{name}.int8", array)
    step = _initializer(graph, f"{name}.scale", scale)
    zero = _initializer(graph, f"{name}.zero_point", np.zeros(scale.shape, dtype=np.int8))
    dequantized = _value(f"{name}.dequantized", ir.DataType.FLOAT, ir.Shape(array.shape))
    node = ir.Node(
        "",
        "DequantizeLinear",
        [codes, step, zero],
        [ir.AttrInt64("axis", axis)],
        outputs=[dequantized],
        name=f"{name}.dq",
    )
    if MODULE_KEY in mac.node.metadata_props:
        node.metadata_props[MODULE_KEY] = mac.node.metadata_props[MODULE_KEY]
    graph.insert_before(mac.node, node)
    return dequantized


def add_to_bias(graph: ir.Graph, mac: MacNode, shift: Array) -> None:
    """Add `(N,)` to the bias of a node that has one: its own third input, or that of the Add behind it."""
    node, index = bias_input(mac)
    bias = constant(node.inputs[index]) if node is not None else None
    assert node is not None and bias is not None  # noqa: S101, PT018 -- `has_bias` was asked
    name = f"{mac.node.outputs[0].name}.corrected_bias"
    node.replace_input_with(index, _initializer(graph, name, (bias + shift.reshape(bias.shape)).astype(np.float32)))


def has_bias(mac: MacNode) -> bool:
    """Tell whether a node has a bias that is its alone, constant and plainly added, for `add_to_bias`."""
    return bias_input(mac)[0] is not None


def bias_input(mac: MacNode) -> tuple[ir.Node | None, int]:
    """Return the node and the input that add a bias to this one's result, None and 0 where that can't be changed."""
    columns = mac.node.outputs[0].shape[-1] if mac.node.outputs[0].shape else None
    if mac.node.outputs[0].is_graph_output() and mac.node.op_type == "MatMul":
        return (None, 0)  # Who reads the result itself would miss what the Add behind it is given.
    if mac.node.op_type in {"Conv", "Gemm"} and len(mac.node.inputs) > 2:
        bias = constant(mac.node.inputs[2])
        weight = mac.node.inputs[mac.weight or 0]
        rows = weight.shape[mac.channel_axis or 0] if weight is not None and weight.shape else None
        return (mac.node, 2) if bias is not None and bias.size == rows else (None, 0)
    uses = list(mac.node.outputs[0].uses())
    if mac.node.op_type == "MatMul" and mac.weight == 1 and len(uses) == 1 and uses[0][0].op_type == "Add":
        add, index = uses[0]
        bias = constant(add.inputs[1 - index])
        if bias is not None and bias.ndim and bias.size == bias.shape[-1] == columns:
            return (add, 1 - index)
    return (None, 0)


def _initializer(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    value = _value(name, ir.DataType.from_numpy(array.dtype), ir.Shape(array.shape))
    value.const_value = ir.tensor(np.asarray(array, order="C"), name=name)
    graph.register_initializer(value)
    return value


def _value(name: str, dtype: ir.DataType, shape: ir.Shape | None) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=shape)


def _drop_unused(model: ir.Model) -> None:
    """Remove float weights that nobody reads any more."""
    graph = model.graph
    for name in [n for n, v in graph.initializers.items() if not v.uses() and not v.is_graph_output()]:
        del graph.initializers[name]
