"""What Triton calls a tensor's type and shape, and whether it may put requests together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mmtrt.errors import BuildError, ModelError
from mmtrt.tensors import ModelSpec, TensorSpec

__all__ = ["Batching", "agreed", "batching", "check_ranges", "data_type", "dims", "row_of"]

_TYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """The most requests that may be run as one; 0 where a request is run as it comes, and `why`."""

    largest: int
    why: str = ""

    def __bool__(self) -> bool:
        """Whether the first axis is Triton's to fill."""
        return self.largest > 0


def data_type(tensor: TensorSpec) -> str:
    """Return `FP32`, `INT64` and so on; ModelError for a type that Triton has none for."""
    if tensor.dtype not in _TYPES:
        raise ModelError(
            f"{tensor.name!r} is {tensor.dtype}, which Triton can't be sent or told", fix="Cast it inside the model."
        )
    return _TYPES[tensor.dtype]


def batching(spec: ModelSpec) -> Batching:
    """Return the batch that a model takes: its tensors all lead with one size that ranges from 1, and is no other axis.

    ModelError at a tensor without axes: Triton knows none.
    """
    tensors = (*spec.inputs, *spec.outputs)
    for tensor in tensors:
        if not tensor.shape:
            raise ModelError(
                f"{tensor.name!r} has no axes, and Triton has no such tensors",
                fix="Give it one of size 1 in the model.",
            )
    axis = tensors[0].shape[0]
    if isinstance(axis, int):
        return Batching(largest=0, why=f"the first axis of {tensors[0].name!r} is always {axis}")
    for tensor in tensors:
        if tensor.shape[0] != axis:
            return Batching(largest=0, why=f"{tensor.name!r} does not lead with {axis!r}")
        if any(isinstance(dim, str) and axis in re.findall(r"\w+", dim) for dim in tensor.shape[1:]):
            # Whoever shares the batch would change the answer's shape.
            return Batching(largest=0, why=f"{tensor.name!r} has {axis!r} on another axis too")
    low, _, high = spec.ranges.get(axis, (0, 0, 0))
    if low != 1:
        return Batching(largest=0, why=f"the range of {axis!r} does not begin at 1")
    return Batching(largest=high)


def row_of(tensor: TensorSpec, batch: Batching) -> tuple[int | str, ...]:
    """Return the axes that a request has beside the batch."""
    return tensor.shape[1:] if batch else tensor.shape


def dims(tensor: TensorSpec, batch: Batching) -> tuple[int, ...]:
    """Return the `dims` of a configuration: -1 for a size by name; (1) for a tensor that has a batch axis alone."""
    row = row_of(tensor, batch)
    return tuple(-1 if isinstance(dim, str) else dim for dim in row) or (1,)


def agreed(spec: ModelSpec, file: ModelSpec, what: str) -> ModelSpec:
    """Return `spec` with the sizes that a file of it, an ONNX or an engine, is certain of in its outputs.

    BuildError where the two differ in a name, a type, a rank, a fixed size, or an input in a dynamic one.
    """
    outputs = _agreed(spec.outputs, file.outputs, f"the outputs of {what}")
    for mine, theirs in zip(spec.inputs, _agreed(spec.inputs, file.inputs, f"the inputs of {what}"), strict=True):
        if mine.shape != theirs.shape:
            raise _differ(f"the inputs of {what}", spec.inputs, file.inputs)
    return replace(spec, outputs=outputs)


def check_ranges(spec: ModelSpec, engine: ModelSpec, what: str) -> None:
    """Raise BuildError where an engine's profile is not what the model's ranges say."""
    shapes = {tensor.name: tensor.shape for tensor in spec.inputs}
    for tensor in engine.inputs:
        for axis, (mine, dim) in enumerate(zip(shapes[tensor.name], tensor.shape, strict=True)):
            asked, taken = spec.ranges.get(str(mine)), engine.ranges.get(str(dim))
            if isinstance(dim, str) and taken != asked:
                raise BuildError(
                    f"{what} takes {taken} on axis {axis} of {tensor.name!r}, and the model's range is {asked}",
                    fix="Build the engine again.",
                )


def _agreed(ours: Sequence[TensorSpec], theirs: Sequence[TensorSpec], which: str) -> tuple[TensorSpec, ...]:
    """Return our tensors in our order, each size fixed that is fixed in one of the two."""
    found = {tensor.name: tensor for tensor in theirs}
    if len(found) != len(ours) or any(tensor.name not in found for tensor in ours):
        raise _differ(which, ours, theirs)
    merged = []
    for tensor in ours:
        other = found[tensor.name]
        pairs = list(zip(tensor.shape, other.shape, strict=False))
        fixed = [(a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, int)]
        same = tensor.dtype == other.dtype and len(tensor.shape) == len(other.shape)
        if not same or any(a != b for a, b in fixed):
            raise _differ(which, ours, theirs)
        merged.append(replace(tensor, shape=tuple(b if isinstance(b, int) else a for a, b in pairs)))
    return tuple(merged)


def _differ(which: str, ours: Sequence[TensorSpec], theirs: Sequence[TensorSpec]) -> BuildError:
    return BuildError(
        f"{which} are {'; '.join(map(str, theirs))}; the model says {'; '.join(map(str, ours))}",
        fix="Export and build it again.",
    )
