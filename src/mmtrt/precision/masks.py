"""Attention masks that FP16 can hold, and that mean what they mean in FP32, in a wholly masked row too.

1. A mask constant is hugely negative (-1e8 and beyond, or -inf) and reaches a softmax. FP32 loses the score beside
   it, so a row that is masked as a whole comes out even: the mask's value, not the score, decides.
2. It is clamped to -3e4: two of them and a score of thousands still add up to a finite FP16 number.
3. Beside -3e4 a score is no longer lost, least of all where the sum is kept in FP32 inside a kernel. So where a
   mask is added to scores, what is masked takes the mask's value itself: `Where(mask < -15e3, mask, score + mask)`.
   The builder fuses it: an attention has as many kernels with it as without. Where the mask is chosen by a condition,
   that condition is taken instead of the comparison: TensorRT-RTX 1.7.1 crashes on the comparison of a causal mask.
4. A graph that gives zeros to rows that see nothing asks `ReduceMax(mask) > -inf`. Where -inf was clamped it asks for
   -15e3 instead; where the mask's lowest is a finite number, whose rows come out even, the answer stays yes.
5. Limits of Clip, Min and Max are clamped to what FP16 holds.
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
    endless: set[ir.Value] = set()
    asking = _asking(model)
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
            endless |= {value, *led} if np.isneginf(array).any() else set()
        elif all(node.op_type in _LIMITING and index > 0 for node, index in value.uses()):
            clamped = np.clip(array, -LARGEST, LARGEST)
        else:
            continue
        _set_constant(value, clamped.astype(array.dtype))
        changed.append(value.name or "")
    for node in asking:
        hidden = node.inputs[0].producer().inputs[0] in endless
        node.replace_input_with(1, _number(model.graph, f"{node.name}.limit", MASK / 2 if hidden else -LARGEST))
    path |= _guard(model, path)
    return Masks(tuple(changed), frozenset(value.name or "" for value in path if value.producer() is not None))


def _asking(model: ir.Model) -> list[ir.Node]:
    """Return the nodes that ask whether a row of a mask sees anything."""
    found = []
    for node in model.graph:
        limit = constant(node.inputs[1]) if node.op_type == "Greater" else None
        if limit is not None and np.isneginf(limit).all():
            producer = node.inputs[0].producer() if node.inputs[0] is not None else None
            if producer is not None and producer.op_type == "ReduceMax":
                found.append(node)
    return found


def _number(graph: ir.Graph, name: str, number: float) -> ir.Value:
    value = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(()))
    value.const_value = ir.tensor(np.array(number, dtype=np.float32), name=name)
    graph.register_initializer(value)
    return value


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
    """Return what is true where the mask hides: the condition that chose it, else a comparison with half of it."""
    producer = mask.producer()
    if producer is not None and producer.op_type == "Where":
        condition, *chosen = producer.inputs
        first, second = (constant(value) for value in chosen)
        if condition is not None and first is not None and second is not None:
            if (first < MASK / 2).all() and (second > MASK / 2).all():
                return condition
            if (first > MASK / 2).all() and (second < MASK / 2).all():
                return _not(graph, producer, condition, mask)
    return _less(graph, mask)


def _not(graph: ir.Graph, producer: ir.Node, condition: ir.Value, mask: ir.Value) -> ir.Value:
    found = ir.Value(name=f"{mask.name}.hidden", type=ir.TensorType(ir.DataType.BOOL), shape=condition.shape)
    graph.insert_after(producer, ir.Node("", "Not", [condition], outputs=[found], name=f"{mask.name}.hidden"))
    return found


def _less(graph: ir.Graph, mask: ir.Value) -> ir.Value:
    limit = _number(graph, f"{mask.name}.limit", MASK / 2)
    found = ir.Value(name=f"{mask.name}.hidden", type=ir.TensorType(ir.DataType.BOOL), shape=mask.shape)
    less = ir.Node("", "Less", [mask, limit], outputs=[found], name=f"{mask.name}.hidden")
    producer = mask.producer()
    if producer is not None:
        graph.insert_after(producer, less)
    else:
        graph.insert_before(graph[0], less)
    return found
