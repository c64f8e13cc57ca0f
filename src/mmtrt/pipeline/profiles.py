"""Ranges of named sizes from the shapes that a user gives for inputs."""

from __future__ import annotations

from collections.abc import Mapping

from mmtrt.errors import UsageError
from mmtrt.tensors import ModelSpec, TensorSpec, format_shape

__all__ = ["ranges_from_shapes"]


def ranges_from_shapes(
    spec: ModelSpec, shapes: tuple[Mapping[str, tuple[int, ...]], ...]
) -> dict[str, tuple[int, int, int]]:
    """Turn the smallest, usual and largest shapes of inputs into ranges of named sizes.

    What is not given is the usual shape; UsageError names the input and the axis that do not fit the model.
    """
    if not any(shapes):
        return {}
    inputs = {tensor.name: tensor for tensor in spec.inputs}
    lowest, usual, highest = shapes
    found: dict[str, tuple[int, int, int]] = {}
    for name in {**lowest, **usual, **highest}:
        if name not in inputs:
            raise UsageError(f"a shape is given for {name!r}, which is no input", fix=f"Inputs: {', '.join(inputs)}.")
        middle = next(given[name] for given in (usual, highest, lowest) if name in given)
        span = [_sizes(inputs[name], given.get(name, middle)) for given in (lowest, usual, highest)]
        for dim in span[0]:
            row = (span[0][dim], span[1][dim], span[2][dim])
            if not row[0] <= row[1] <= row[2]:
                raise UsageError(
                    f"{dim!r} of input {name!r} runs {row[0]}, {row[1]}, {row[2]}: it must not fall",
                    fix="Give shapes with min <= opt <= max on each axis.",
                )
            if found.setdefault(dim, row) != row:
                raise UsageError(
                    f"{dim!r} is {row} in input {name!r} and {found[dim]} in another",
                    fix="Inputs that share a size need the same numbers for it.",
                )
    return found


def _sizes(tensor: TensorSpec, shape: tuple[int, ...]) -> dict[str, int]:
    if len(shape) != len(tensor.shape):
        raise UsageError(
            f"input {tensor.name!r} has {len(tensor.shape)} axes, the shape given is {format_shape(shape)}",
            fix=f"The model says {tensor}.",
        )
    sizes = {}
    for axis, (given, dim) in enumerate(zip(shape, tensor.shape, strict=True)):
        if isinstance(dim, str):
            sizes[dim] = given
        elif dim != given:
            raise UsageError(f"input {tensor.name!r} is fixed to {dim} on axis {axis}, not {given}")
    return sizes
