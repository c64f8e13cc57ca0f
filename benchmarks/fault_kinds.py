"""Random faults in a graph: each kind draws its place and plants one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx

__all__ = ["KINDS", "plant"]


def plant(proto: onnx.ModelProto, rng: np.random.Generator) -> dict[str, str]:
    """Plant one random fault; return its kind and its place. LookupError where the model has no place for it."""
    kind = str(rng.choice(list(KINDS)))
    return {"kind": kind, "place": KINDS[kind](proto, rng)}


def _weight(proto: onnx.ModelProto, rng: np.random.Generator) -> onnx.TensorProto:
    """Draw a weight: a constant of eight numbers or more that are floats or INT8."""
    kinds = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8}
    found = [t for t in proto.graph.initializer if t.data_type in kinds and int(np.prod(t.dims)) >= 8]
    return _drawn(found, rng, "a weight")


def _drawn(found: Sequence[Any], rng: np.random.Generator, what: str) -> Any:
    if not found:
        raise LookupError(f"the model has not {what}")
    return found[int(rng.integers(len(found)))]


def _write(tensor: onnx.TensorProto, array: np.ndarray[Any, Any]) -> str:
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))
    return tensor.name


def flipped_bits(proto: onnx.ModelProto, rng: np.random.Generator) -> str:
    """Flip one bit in each of 1 to 64 numbers of a weight."""
    tensor = _weight(proto, rng)
    array = onnx.numpy_helper.to_array(tensor).copy()
    bits = array.reshape(-1).view(f"u{array.itemsize}")
    count = min(int(2 ** rng.integers(7)), bits.size)
    places = rng.choice(bits.size, count, replace=False)
    bits[places] ^= (1 << rng.integers(8 * array.itemsize, size=count)).astype(bits.dtype)
    return f"{_write(tensor, array)}: {count}"


def doubled_scale(proto: onnx.ModelProto, rng: np.random.Generator) -> str:
    """Double a scale of Q/DQ; a weight where there are none."""
    names = {n.input[1] for n in proto.graph.node if n.op_type in {"QuantizeLinear", "DequantizeLinear"}}
    scales = [tensor for tensor in proto.graph.initializer if tensor.name in names]
    tensor = _drawn(scales, rng, "a scale") if scales else _weight(proto, rng)
    array = onnx.numpy_helper.to_array(tensor)
    return _write(
        tensor, array * 2 if array.dtype.kind == "f" else np.clip(array.astype(int) * 2, -127, 127).astype("i1")
    )


def zeroed_weight(proto: onnx.ModelProto, rng: np.random.Generator) -> str:
    """Set a weight to 0."""
    tensor = _weight(proto, rng)
    return _write(tensor, np.zeros_like(onnx.numpy_helper.to_array(tensor)))


def rolled_weight(proto: onnx.ModelProto, rng: np.random.Generator) -> str:
    """Move a weight's rows on by one."""
    tensor = _weight(proto, rng)
    return _write(tensor, np.roll(onnx.numpy_helper.to_array(tensor), 1, axis=0))


def changed_attribute(proto: onnx.ModelProto, rng: np.random.Generator) -> str:
    """Change one attribute of a node: a number doubled, a whole number one more or less, two of a list exchanged."""
    kinds = {onnx.AttributeProto.INT, onnx.AttributeProto.FLOAT, onnx.AttributeProto.INTS}
    found = [(node, entry) for node in proto.graph.node for entry in node.attribute if entry.type in kinds]
    node, entry = _drawn(found, rng, "an attribute")
    if entry.type == onnx.AttributeProto.FLOAT:
        entry.f *= 2
    elif entry.type == onnx.AttributeProto.INT:
        entry.i = 1 - entry.i if entry.i in {0, 1} else entry.i + int(rng.choice([-1, 1]))
    elif len(entry.ints) > 1 and len(set(entry.ints)) > 1:
        one, other = rng.choice(len(entry.ints), 2, replace=False)
        entry.ints[one], entry.ints[other] = entry.ints[other], entry.ints[one]
    elif entry.ints:
        entry.ints[0] += 1
    return f"{node.op_type} {node.name}: {entry.name}"


def exchanged_inputs(proto: onnx.ModelProto, rng: np.random.Generator) -> str:
    """Exchange two inputs of a node."""
    node = _drawn([node for node in proto.graph.node if len(set(node.input)) > 1], rng, "a node of two inputs")
    one, other = rng.choice(len(node.input), 2, replace=False)
    node.input[one], node.input[other] = node.input[other], node.input[one]
    return f"{node.op_type} {node.name}"


def left_out(proto: onnx.ModelProto, rng: np.random.Generator) -> str:
    """Replace a node by Identity of one of its inputs that is no constant."""
    constants = {"", *(tensor.name for tensor in proto.graph.initializer)}
    found = [
        (node, free)
        for node in proto.graph.node
        if (free := sorted(set(node.input) - constants)) and len(node.output) == 1 and node.op_type != "Identity"
    ]
    node, free = _drawn(found, rng, "a node")
    told, name = f"{node.op_type} {node.name}", str(rng.choice(free))
    node.op_type = "Identity"
    del node.input[:]
    del node.attribute[:]
    node.input.append(name)
    return told


def doubled_number(proto: onnx.ModelProto, rng: np.random.Generator) -> str:
    """Double a single number of the graph: what scores are divided by, what a mask is filled with."""
    kinds = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}
    found = [t for t in proto.graph.initializer if t.data_type in kinds and int(np.prod(t.dims)) == 1]
    tensor = _drawn(found, rng, "a single number")
    array = onnx.numpy_helper.to_array(tensor)
    return _write(tensor, (array.astype(np.float64) * 2).astype(array.dtype))


KINDS: dict[str, Callable[[onnx.ModelProto, np.random.Generator], str]] = {
    "bits flipped in one weight": flipped_bits,
    "scale times 2": doubled_scale,
    "weight zeroed": zeroed_weight,
    "rows moved by one": rolled_weight,
    "attribute changed": changed_attribute,
    "inputs exchanged": exchanged_inputs,
    "node left out": left_out,
    "number times 2": doubled_number,
}
