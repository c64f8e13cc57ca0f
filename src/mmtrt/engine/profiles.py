"""Optimisation profiles, checked against each other and against the network before anything is built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from mmtrt.errors import UsageError
from mmtrt.tensors import Profile, ShapeRange, format_shape

__all__ = ["NetworkTensor", "check_order", "check_profile", "full_profile"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkTensor:
    """An input or output of a parsed network: numpy dtype; shape with a size's name on each dynamic axis."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @property
    def dynamic(self) -> bool:
        """Whether any axis is dynamic."""
        return any(isinstance(dim, str) for dim in self.shape)


def check_order(profile: Profile) -> None:
    """Raise UsageError that names the input and axis where ranks differ or min <= opt <= max fails."""
    for name, span in profile.items():
        if not len(span.min) == len(span.opt) == len(span.max):
            shapes = f"{format_shape(span.min)}, {format_shape(span.opt)} and {format_shape(span.max)}"
            raise UsageError(f"input {name!r}: its min, opt and max shapes have different ranks: {shapes}")
        for axis, (low, usual, high) in enumerate(zip(span.min, span.opt, span.max, strict=True)):
            if not 0 <= low <= usual <= high:
                raise UsageError(
                    f"input {name!r}, axis {axis}: min {low}, opt {usual}, max {high} are not in order",
                    fix="Shapes must hold 0 <= min <= opt <= max on each axis.",
                )


def check_profile(profile: Profile, inputs: Sequence[NetworkTensor]) -> None:
    """Raise UsageError that names the input and axis where a profile does not fit the network."""
    check_order(profile)
    known = {tensor.name for tensor in inputs}
    for name in profile:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            fix = f"Did you mean {near[0]!r}?" if near else f"Its inputs are {', '.join(sorted(known))}."
            raise UsageError(f"the profile names {name!r}, which is no input of the model", fix=fix)
    for tensor in inputs:
        if tensor.name in profile:
            _check_tensor(profile[tensor.name], tensor)
        elif tensor.dynamic:
            raise UsageError(
                f"input {tensor.name!r} has dynamic axes ({', '.join(map(str, tensor.shape))}) and no range",
                fix=f"Give --min-shapes, --opt-shapes and --max-shapes for {tensor.name}.",
            )
    _check_shared(profile, inputs)


def _check_tensor(span: ShapeRange, tensor: NetworkTensor) -> None:
    if len(span.opt) != len(tensor.shape):
        raise UsageError(
            f"input {tensor.name!r} has {len(tensor.shape)} axes ({format_shape(tensor.shape)}), "
            f"its profile has {len(span.opt)} ({format_shape(span.opt)})"
        )
    for axis, dim in enumerate(tensor.shape):
        wrong = [shape[axis] for shape in (span.min, span.opt, span.max) if shape[axis] != dim]
        if isinstance(dim, int) and wrong:
            raise UsageError(
                f"input {tensor.name!r}, axis {axis}: the model fixes {dim}, the profile says {wrong[0]}",
                fix="Give that size, or export the model with this axis dynamic.",
            )


def _check_shared(profile: Profile, inputs: Sequence[NetworkTensor]) -> None:
    """Sizes of one name are one size: their ranges must agree."""
    seen: dict[str, tuple[tuple[int, int, int], str]] = {}
    for tensor in inputs:
        for axis, dim in enumerate(tensor.shape):
            if not isinstance(dim, str):
                continue
            span = profile[tensor.name]
            here = (span.min[axis], span.opt[axis], span.max[axis])
            before, where = seen.setdefault(dim, (here, tensor.name))
            if before != here:
                raise UsageError(
                    f"input {tensor.name!r}, axis {axis}: size {dim!r} is {here} here, {before} in {where!r}",
                    fix="Axes of one size name need one range.",
                )


def full_profile(profile: Profile, inputs: Sequence[NetworkTensor]) -> dict[str, ShapeRange]:
    """Return the range of each input, static ones included, in the network's order."""
    full = {}
    for tensor in inputs:
        static = tuple(dim for dim in tensor.shape if isinstance(dim, int))
        full[tensor.name] = profile.get(tensor.name) or ShapeRange(min=static, opt=static, max=static)
    return full
