"""Attention masks that FP16 can hold, and that mean what they mean in FP32, in a wholly masked row too.

1. A mask constant is hugely negative (-1e8 and beyond, or -inf) and reaches a softmax. FP32 loses the score beside
   it, so a row that is masked as a whole comes out even: the mask's value, not the score, decides.
2. It is clamped to -3e4: two of them and a score of thousands still add up to a finite FP16 number.
3. Beside -3e4 a score is no longer lost, least of all where the sum is kept in FP32 inside a kernel. So where a
   mask is added to scores, what is masked takes the mask's value itself: `Where(mask < -15e3, mask, score + mask)`.
   The builder fuses it: an attention has as many kernels with it as without.
4. Limits of Clip, Min and Max are clamped to what FP16 holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mmtrt.precision.graph import MODULE_KEY, constant
from mmtrt.tensors import Array

__all__ = ["LARGEST", "MASK", "Masks", "clamp_masks"]

LARGEST = 65504.0
"""Largest finite FP16 number."""

MASK = -3e4
_LOST = -1e8
_PATH = {
    "Mul", "Add", "Sub", "Where", "Expand", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Cast", "Identity", "Max",
    "Slice", "Tile", "Concat", "Trilu", "Gather", "ConstantOfShape",
}  # fmt: skip
_LIMITING = {"Clip", "Min", "Max"}


@dataclass(frozen=True, slots=True)
class Masks:
    """What `clamp_masks` changed: the constants, and the values through which they reach a softmax."""

    constants: tuple[str, ...] = ()
    values: frozenset[str] = frozenset()


def clamp_masks(model: ir.Model) -> Masks:
    """Apply the rules above in place; return what changed and where it leads."""
    changed: list[str] = []
    path: set[ir.Value] = set()
    for value in _constants(model):
        array = constant(value)
        if array is None or array.dtype.kind != "f" or not array.size:
            continue
        if not (array.min() < -LARGEST or array.max() > LARGEST):
            continue
        beyond = np.abs(array.astype(np.float64)) > LARGEST
        led: set[ir.Value] = set()
        if (array[beyond] <= _LOST).all() and _meets_softmax(value, led, set()):
            clamped = np.where(beyond, MASK, array)
            path |= {value, *led}
        elif all(node.op_type in _LIMITING and index > 0 for node, index in value.uses()):
            clamped = np.clip(array, -LARGEST, LARGEST)
        else:
            continue
        _set_constant(value, clamped.astype(array.dtype))
        changed.append(value.name or "")
    path |= _guard(model, path)
    return Masks(tuple(changed), frozenset(value.name or "" for value in path if value.producer() is not None))


def _constants(model: ir.Model) -> list[ir.Value]:
    made = [node.outputs[0] for node in model.graph if node.op_type == "Constant"]
    return [*model.graph.initializers.values(), *made]


def _set_constant(value: ir.Value, array: Array) -> None:
    tensor = ir.tensor(np.asarray(array, order="C"), name=value.name)
    producer = value.producer()
    if producer is None:
        value.const_value = tensor
    else:
        producer.attributes["value"] = ir.AttrTensor("value", tensor)


def _meets_softmax(value: ir.Value, path: set[ir.Value], seen: set[ir.Value]) -> bool:
    """Tell whether a value reaches a softmax over what masks go through; `path` takes the values that do."""
    seen.add(value)
    meets = False
    for node, _ in value.uses():
        if node.op_type in {"Softmax", "LogSoftmax"}:
            meets = True
        elif node.op_type in _PATH:
            result = node.outputs[0]
            found = result in path if result in seen else _meets_softmax(result, path, seen)
            if found:
                path.add(result)
                meets = True
    return meets


def _guard(model: ir.Model, path: set[ir.Value]) -> set[ir.Value]:
    """Apply rule 3; return the values that were added."""
    hidden: dict[ir.Value, ir.Value] = {}
    added: set[ir.Value] = set()
    for node in list(model.graph):
        if node.op_type != "Add" or node.outputs[0] not in path:
            continue
        masks = [value for value in node.inputs if value in path]
        # Two masks that are added make a mask; only scores need the guard.
        if (
            len(masks) != 1
            or masks[0] is None
            or constant(node.inputs[1 - list(node.inputs).index(masks[0])]) is not None
        ):
            continue
        if masks[0] not in hidden:
            hidden[masks[0]] = _hidden(model.graph, masks[0])
        total = node.outputs[0]
        guarded = ir.Value(name=f"{total.name}.masked", type=total.type, shape=total.shape)
        users = list(total.uses())
        where = ir.Node("", "Where", [hidden[masks[0]], masks[0], total], outputs=[guarded], name=f"{node.name}.masked")
        if MODULE_KEY in node.metadata_props:
            where.metadata_props[MODULE_KEY] = node.metadata_props[MODULE_KEY]
        model.graph.insert_after(node, where)
        for user, index in users:
            user.replace_input_with(index, guarded)
        added.add(guarded)
    return added


def _hidden(graph: ir.Graph, mask: ir.Value) -> ir.Value:
    limit = ir.Value(name=f"{mask.name}.limit", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(()))
    limit.const_value = ir.tensor(np.array(MASK / 2, dtype=np.float32), name=limit.name)
    graph.register_initializer(limit)
    found = ir.Value(name=f"{mask.name}.hidden", type=ir.TensorType(ir.DataType.BOOL), shape=mask.shape)
    less = ir.Node("", "Less", [mask, limit], outputs=[found], name=f"{mask.name}.hidden")
    producer = mask.producer()
    if producer is not None:
        graph.insert_after(producer, less)
    else:
        graph.insert_before(graph[0], less)
    return found
