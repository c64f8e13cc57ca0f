"""Which of a bundle's targets this machine is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

from pydantic import ValidationError

from mmtrt.bundle.manifest import Manifest
from mmtrt.deploy.preflight import Machine, flavour_for
from mmtrt.engine.flavours import Flavour
from mmtrt.engine.targets import Target
from mmtrt.errors import InputError, MachineError, UsageError
from mmtrt.results import Mismatch

__all__ = ["Chosen", "choose", "refused", "targets_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A target that fits this machine, what builds for it, and what of it is otherwise all the same."""

    name: str
    target: Target
    flavour: Flavour
    mismatches: tuple[Mismatch, ...]
    why: str = ""


def targets_of(manifest: Manifest) -> dict[str, Target]:
    """Return a bundle's targets by name; InputError for settings that this mmtrt does not know."""
    try:
        return {name: Target.model_validate(row.settings) for name, row in manifest.targets.items()}
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"the bundle's targets: {'.'.join(map(str, first['loc']))}: {first['msg']}",
            fix="It was made by another version of mmtrt: install that one, or make the bundle again.",
        ) from error


def choose(
    targets: Mapping[str, Target],
    machine: Machine,
    *,
    wanted: str | None,
    otherwise: Callable[[str], tuple[Mismatch, ...]],
    ready: Callable[[str, Flavour], bool],
) -> Chosen:
    """Return the target that is named, else the one that fits best; MachineError names all that stops each.

    `otherwise` tells what of the machine is otherwise than a target asks, `ready` whether the bundle holds an engine
    for a target that fits as it is. UsageError for an unknown name.
    """
    if wanted is not None and wanted not in targets:
        near = get_close_matches(wanted, targets, n=1)
        fix = f"Did you mean {near[0]!r}?" if near else f"It has {', '.join(targets)}."
        raise UsageError(f"the bundle has no target {wanted!r}", fix=fix)
    names = [wanted] if wanted is not None else list(targets)
    found = {name: otherwise(name) for name in names}
    fitting: list[tuple[tuple[int, ...], Chosen]] = []
    for index, name in enumerate(names):
        target, flavour = targets[name], flavour_for(targets[name], machine)
        if flavour is None or any(one.stops for one in found[name]):
            continue
        order = (
            target.board is None or target.board != machine.board.family,
            not ready(name, flavour),
            len(found[name]),
            flavour.name != "tensorrt",
            index,
        )
        fitting.append((order, Chosen(name=name, target=target, flavour=flavour, mismatches=found[name])))
    if not fitting:
        raise refused(found)
    fitting.sort(key=lambda row: row[0])
    return fitting[0][1] if len(fitting) == 1 else _told(fitting)


_REASONS = (
    "it is for this very board",
    "the bundle has an engine for it that fits as it is",
    "it has the fewest warnings",
    "TensorRT comes before TensorRT-RTX",
    "it comes first in the bundle",
)


def _told(fitting: Sequence[tuple[tuple[int, ...], Chosen]]) -> Chosen:
    """Return the first, with what tells it from the second."""
    (first, chosen), (second, _), *_rest = fitting
    reason = next(text for text, mine, other in zip(_REASONS, first, second, strict=True) if mine != other)
    names = ", ".join(other.name for _, other in fitting[1:])
    why = f"target {chosen.name!r} was chosen, since {reason}; {names} would fit too: --target names one"
    return replace(chosen, why=why)


def refused(found: Mapping[str, Sequence[Mismatch]]) -> MachineError:
    """Return the error that names what stops each target, with the mend of each."""
    lines = [
        f"  {name}: {one.what}: wanted {one.wanted}, found {one.found}"
        for name, rows in found.items()
        for one in rows
        if one.stops
    ]
    mends = dict.fromkeys(one.fix for rows in found.values() for one in rows if one.stops)
    return MachineError("this machine fits no target of the bundle:\n" + "\n".join(lines), fix="\n  ".join(mends))
