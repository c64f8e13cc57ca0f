"""Names, dtypes and shapes of tensors, and what a model says about its own."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mmtrt.errors import UsageError

__all__ = [
    "Array",
    "Feeds",
    "ModelSpec",
    "Profile",
    "ShapeRange",
    "TensorSpec",
    "array_digest",
    "branch_of",
    "format_shape",
    "parse_shapes",
    "resize_array",
    "resolve_shape",
    "tensor_bytes",
]

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]
"""Named input arrays with the batch axis."""

SPEC_SCHEMA = "mmtrt.spec/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One input or output: numpy dtype name, and a shape whose dynamic axes are named by their size."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} ({', '.join(map(str, self.shape))})"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeRange:
    """The smallest, the usual and the largest shape of one input: an optimisation profile's row."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


Profile = Mapping[str, ShapeRange]
"""The range of each input, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """What a model says about itself; it travels in the ONNX metadata as JSON.

    `ranges` maps a size's name to its smallest, usual and largest value; `limits` maps an integer input to
    the smallest and largest value that the graph's tables can look up; `masks` maps an input that masks to the value
    that hides; `heads` maps an output to what it is, one of `mmtrt.metrics.KINDS`; `source` and `digest` name the
    module and its weights.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    modalities: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ranges: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    limits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    masks: Mapping[str, int] = field(default_factory=dict)
    heads: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    digest: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    def profile(self) -> dict[str, ShapeRange]:
        """Return the optimisation profile that `ranges` describe; a size without a range is a KeyError."""

        def at(which: int, spec: TensorSpec) -> tuple[int, ...]:
            return resolve_shape(spec.shape, {name: span[which] for name, span in self.ranges.items()})

        return {spec.name: ShapeRange(min=at(0, spec), opt=at(1, spec), max=at(2, spec)) for spec in self.inputs}

    def dynamic_profile(self) -> dict[str, ShapeRange]:
        """Return the profile of the inputs that have a size by name: what a builder is to be told."""
        dynamic = {spec.name for spec in self.inputs if any(isinstance(dim, str) for dim in spec.shape)}
        return {name: span for name, span in self.profile().items() if name in dynamic}

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""

        def tensors(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
            return [{"name": s.name, "dtype": s.dtype, "shape": list(s.shape)} for s in specs]

        return {
            "schema": SPEC_SCHEMA,
            "inputs": tensors(self.inputs),
            "outputs": tensors(self.outputs),
            "modalities": {name: list(inputs) for name, inputs in self.modalities.items()},
            "ranges": {name: list(span) for name, span in self.ranges.items()},
            "limits": {name: list(span) for name, span in self.limits.items()},
            "masks": dict(self.masks),
            "heads": dict(self.heads),
            "source": self.source,
            "digest": self.digest,
            "versions": dict(self.versions),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelSpec:
        """Read what `to_json` wrote."""

        def tensors(rows: Sequence[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
            return tuple(TensorSpec(name=r["name"], dtype=r["dtype"], shape=tuple(r["shape"])) for r in rows)

        return cls(
            inputs=tensors(data["inputs"]),
            outputs=tensors(data["outputs"]),
            modalities={name: tuple(inputs) for name, inputs in data.get("modalities", {}).items()},
            ranges={name: (s[0], s[1], s[2]) for name, s in data.get("ranges", {}).items()},
            limits={name: (s[0], s[1]) for name, s in data.get("limits", {}).items()},
            masks={name: int(value) for name, value in data.get("masks", {}).items()},
            heads={name: str(kind) for name, kind in data.get("heads", {}).items()},
            source=data.get("source", ""),
            digest=data.get("digest", ""),
            versions=dict(data.get("versions", {})),
        )


def branch_of(module: str) -> str:
    """Return the part of the model that a module belongs to: the first name of its path."""
    return module.split(".", maxsplit=1)[0]


def resolve_shape(shape: Sequence[int | str], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Put numbers in place of size names; a name that `sizes` lacks is a KeyError."""
    return tuple(dim if isinstance(dim, int) else sizes[dim] for dim in shape)


def tensor_bytes(dtype: str, shape: Sequence[int]) -> int:
    """Return the bytes of a tensor of a type that numpy knows."""
    return math.prod(shape) * np.dtype(dtype).itemsize


def resize_array(array: Array, shape: Sequence[int]) -> Array:
    """Repeat or cut an array along its axes to a shape; values are never drawn at random."""
    for axis, size in enumerate(shape):
        if array.shape[axis] != size:
            array = np.take(array, np.arange(size) % array.shape[axis], axis=axis)
    return np.asarray(array, order="C")


def format_shape(shape: Sequence[int | str]) -> str:
    """Write a shape as trtexec does: `1x3x224x224`; a scalar is `scalar`."""
    return "x".join(map(str, shape)) or "scalar"


# A name may hold colons itself (`input:0:1x4`), but nothing that looks like a shape with more behind it.
_NAME = r"(?P<name>(?:(?!:\d+x\d|:\[)[^,\s])+?)"
_TRTEXEC = re.compile(_NAME + r":(?P<dims>\d+(?:x\d+)*|scalar)(?=[,\s]|$)")
_POLYGRAPHY = re.compile(_NAME + r":\[\s*(?P<dims>(?:\d+(?:\s*,\s*\d+)*)?)\s*\](?=[,\s]|$)")


def parse_shapes(text: str) -> dict[str, tuple[int, ...]]:
    """Read `ids:1x4,image:1x3x64x64` (trtexec) or `ids:[1,4],image:[1,3,64,64]` (Polygraphy).

    Raises UsageError that quotes the part that could not be read.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    rest = text.strip()
    while rest:
        match = _POLYGRAPHY.match(rest) or _TRTEXEC.match(rest)
        if not match:
            raise UsageError(
                f"can't read a shape at {rest!r}", fix="Write it as name:1x3x224x224 or name:[1,3,224,224]."
            )
        name = match["name"]
        if name in shapes:
            raise UsageError(f"the shape of input {name!r} is given twice")
        shapes[name] = tuple(int(d) for d in re.findall(r"\d+", match["dims"]))
        rest = rest[match.end() :].strip()
        rest = rest.removeprefix(",").lstrip()
    return shapes


def array_digest(arrays: Mapping[str, Array]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of named arrays, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        digest.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
