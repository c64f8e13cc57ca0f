"""What each runner checks before it runs: the names, types and shapes of its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from mmtrt.errors import InputError
from mmtrt.tensors import Feeds, TensorSpec, format_shape

__all__ = ["check_feeds"]


def check_feeds(feeds: Feeds, inputs: Sequence[TensorSpec]) -> None:
    """Raise InputError that names the first input that is missing, unknown, or of a wrong type or shape."""
    wanted = {spec.name: spec for spec in inputs}
    for name in feeds:
        if name not in wanted:
            near = get_close_matches(str(name), wanted, n=1)
            raise InputError(
                f"the model has no input {name!r}",
                fix=f"Did you mean {near[0]!r}?" if near else f"Its inputs are {', '.join(wanted)}.",
            )
    sizes: dict[str, tuple[int, str]] = {}
    for spec in inputs:
        if spec.name not in feeds:
            raise InputError(f"input {spec.name!r} is missing", fix=f"The model takes {spec}.")
        array = feeds[spec.name]
        if str(array.dtype) != spec.dtype:
            raise InputError(
                f"input {spec.name!r} is {array.dtype}, the model takes {spec.dtype}",
                fix=f"Convert it with .astype({spec.dtype!r}).",
            )
        if array.ndim != len(spec.shape):
            raise InputError(
                f"input {spec.name!r} has shape {format_shape(array.shape)}, the model takes {format_shape(spec.shape)}"
            )
        for axis, (size, dim) in enumerate(zip(array.shape, spec.shape, strict=True)):
            before = sizes.setdefault(dim, (size, spec.name)) if isinstance(dim, str) else (dim, spec.name)
            if before[0] != size:
                where = f" as in {before[1]!r}" if before[1] != spec.name else ""
                raise InputError(
                    f"input {spec.name!r} has size {size} on axis {axis}, the model takes {before[0]}{where}"
                )
