"""Hard cases where a side's outputs were saved: those that were recorded with it, and what is told of the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from mmtrt.parity.stress import DETERMINISM, StressCase
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.hard_cases import HardCases
from mmtrt.pipeline.saved import Saved, SavedCase
from mmtrt.pipeline.sides import Subject
from mmtrt.results import StressResult
from mmtrt.samples import SampleSet

__all__ = ["Plan", "plan_cases"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The cases to run, one at a time in memory, and what is told of those that are not."""

    cases: Iterable[StressCase]
    left_out: tuple[StressResult, ...] = ()


def plan_cases(
    context: Context, hard: HardCases, reference: Subject, candidates: Sequence[Subject], samples: SampleSet
) -> Plan:
    """Return the hard cases that all sides can answer: saved sides can where they were recorded with them."""
    saved = [subject.saved for subject in (reference, *candidates) if subject.saved is not None]
    if not saved:
        return Plan(cases=hard.made(context, samples))
    fixed = any(candidate.saved is not None for candidate in candidates)
    lacking = {kind: [side.what for side in saved if kind not in side.kinds] for kind in hard.kinds}
    # What a candidate is held to itself in needs no reference.
    own = [kind for kind in hard.kinds if kind == DETERMINISM and lacking[kind] and not fixed]
    missing = {kind: sides for kind, sides in lacking.items() if sides and kind not in own}
    left_out = [
        _not_run(kind, f"{' and '.join(sides)} can't be run, and holds no recorded cases of it")
        for kind, sides in missing.items()
    ]
    chosen: list[SavedCase] = []
    for kept in saved[0].cases:
        named = tuple(one for one in kept.named if one.kind in hard.kinds and not lacking[one.kind])
        why = _why_not(kept, saved, fixed=fixed)
        if why is None and named:
            chosen.append(replace(kept, named=named))
        else:
            left_out += [_not_run(one.kind, why or "", one.name, kept) for one in named]
    for left in left_out:
        context.note(f"{left.kind} {left.name}".rstrip() + f" is not run: {left.note}")
    made = replace(hard, kinds=tuple(own)).made(context, samples)
    return Plan(cases=_each(context, chosen, made), left_out=tuple(left_out))


def _each(context: Context, chosen: Iterable[SavedCase], made: Iterable[StressCase]) -> Iterator[StressCase]:
    for kept in chosen:
        context.stage(f"stress: {kept.named[0].kind}, {kept.named[0].name}")
        yield kept.case()
    yield from made


def _not_run(kind: str, why: str, name: str = "", kept: SavedCase | None = None) -> StressResult:
    sizes = dict(kept.sizes) if kept is not None else {}
    return StressResult(kind=kind, name=name, sizes=sizes, outputs={}, verdict="not run", note=why)


def _why_not(kept: SavedCase, saved: Sequence[Saved], *, fixed: bool) -> str | None:
    """Say why a recorded case can't be judged; None where each saved side has an answer to its very feeds."""
    if fixed and kept.how != "both sides":
        return "the candidate's outputs were saved: there is no second run to hold them to"
    for side in saved[1:]:
        if not any(other.answers_to(kept) for other in side.cases):
            return f"{side.what} was not recorded over this case"
    return None
