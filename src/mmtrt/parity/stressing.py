"""Run both sides on hard cases, and hold each output to the budget of the case's kind.

1. Where the reference raises, the case is `reference refuses`, with the reason: nobody can tell what is right.
2. Where the candidate raises, the case fails, with the reason.
3. Where a side was killed for want of memory, the case is inconclusive: a larger machine may tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from mmtrt.errors import MachineError, MmtrtError
from mmtrt.parity.holding import Scales, held_output
from mmtrt.parity.side import Side, attempt, attempts
from mmtrt.parity.stress import Named, StressCase
from mmtrt.results import OutputResult, StressResult, Verdict
from mmtrt.runtimes import Runner
from mmtrt.tensors import Array

__all__ = ["run_stress"]

_ALONE = 4
"""Rows of a batch that are run once more by themselves: each is a run."""

Outputs = Mapping[str, Array]


def run_stress(
    pool: ThreadPoolExecutor,
    reference: Side,
    candidates: Sequence[Side],
    cases: Iterable[StressCase],
    scales: Scales,
    *,
    into: Sequence[list[StressResult]] | None = None,
) -> list[tuple[StressResult, ...]]:
    """Return the results of each candidate, in the order of the cases; the sides are entered.

    One case is in memory at a time, and its results are in the lists of `into`, if given, before the next one begins.
    """
    found = into if into is not None else [[] for _ in candidates]
    for case in cases:
        rows = _run(pool, reference, candidates, case, scales)
        for own, row in zip(found, rows, strict=True):
            own.extend(row)
    return [tuple(results) for results in found]


def _run(
    pool: ThreadPoolExecutor, reference: Side, candidates: Sequence[Side], case: StressCase, scales: Scales
) -> list[list[StressResult]]:
    if case.how == "again":
        return [_again(side, case) for side in candidates]
    if case.how != "both sides":
        return _invariant(reference, candidates, case, scales)
    told, *answers = attempts(pool, [side.runner for side in (reference, *candidates)], case.feeds)
    if isinstance(told, Exception):
        return [_refused(case, told) for _ in candidates]
    return [_against(side, case, told, got, scales) for side, got in zip(candidates, answers, strict=True)]


def _against(
    side: Side, case: StressCase, told: Outputs, got: Outputs | Exception, scales: Scales
) -> list[StressResult]:
    if isinstance(got, Exception):
        return [_raised(case, one, got) for one in case.named]
    return [_held(side, case, one, told, got, scales) for one in case.named]


def _again(side: Side, case: StressCase) -> list[StressResult]:
    first = attempt(side.runner, case.feeds)
    second = attempt(side.runner, {name: array.copy() for name, array in case.feeds.items()})
    for got in (first, second):
        if isinstance(got, Exception):
            return [_raised(case, one, got) for one in case.named]
    assert not isinstance(first, Exception)  # noqa: S101 -- just seen
    return _against(side, case, first, second, Scales())


# ------------------------------------------------------------------------------------------- alone and in a batch


def _invariant(
    reference: Side, candidates: Sequence[Side], case: StressCase, scales: Scales
) -> list[list[StressResult]]:
    """Hold each candidate's batch to its own rows alone, where the reference's rows don't depend on the batch."""
    told = _both_ways(reference.runner, case)
    if isinstance(told, Exception):
        return [_refused(case, told) for _ in candidates]
    free = _free(reference, case.named[0], told, scales)
    if not free:
        why = "the reference's own rows depend on the batch that they are in"
        return [[_without(case, one, "not run", why) for one in case.named] for _ in candidates]
    rest = ", ".join(name for name in told[0] if name not in free)
    note = f"not judged, since the reference's own rows depend on the batch: {rest}" if rest else ""
    noted = replace(case, named=tuple(replace(one, note=_joined(one.note, note)) for one in case.named))
    results = []
    for side in candidates:
        got = _both_ways(side.runner, case)
        if isinstance(got, Exception):
            results.append([_raised(noted, one, got) for one in noted.named])
        else:
            own = {name: array for name, array in got[1].items() if name in free}
            results.append(_against(side, noted, own, got[0], scales))
    return results


def _free(reference: Side, named: Named, told: tuple[Outputs, Outputs], scales: Scales) -> list[str]:
    """Return the outputs of which the reference gives a row the same, whatever batch it is in."""
    batch, alone = told
    side = Side(what=reference.what, runner=reference.runner, precision=reference.precision)
    return [
        name
        for name, array in alone.items()
        if array.shape == batch[name].shape
        and held_output(side, named, name, array, batch[name], scales).verdict != "fail"
    ]


def _both_ways(runner: Runner, case: StressCase) -> tuple[Outputs, Outputs] | Exception:
    """Return some rows out of a whole batch, and the same rows run alone, or in another order where they can't be."""
    whole = attempt(runner, case.feeds)
    if isinstance(whole, Exception):
        return whole
    count = min(len(array) for array in case.feeds.values())
    if case.how == "in another order":
        order = np.roll(np.arange(count), 1)
        turned = attempt(runner, {name: array[order] for name, array in case.feeds.items()})
        if isinstance(turned, Exception):
            return turned
        return {name: _rows(array, order, count) for name, array in whole.items()}, turned
    chosen = np.unique(np.linspace(0, count - 1, min(count, _ALONE)).astype(int))
    single: list[Outputs] = []
    for row in chosen:
        got = attempt(runner, {name: array[row : row + 1] for name, array in case.feeds.items()})
        if isinstance(got, Exception):
            return got
        single.append(got)
    alone = {name: np.concatenate([np.atleast_1d(got[name]) for got in single]) for name in single[0]}
    return {name: _rows(array, chosen, count) for name, array in whole.items()}, alone


def _rows(array: Array, rows: Array, count: int) -> Array:
    """Take rows of an output that has one for each of the batch; another output stays, and has another shape."""
    return array[rows] if array.ndim and len(array) == count else array


# ------------------------------------------------------------------------------------------------- the verdicts


def _held(side: Side, case: StressCase, one: Named, told: Outputs, got: Outputs, scales: Scales) -> StressResult:
    outputs = {}
    for name, array in told.items():
        outputs[name] = (
            held_output(side, one, name, array, got[name], scales)
            if name in got
            else OutputResult(metrics={}, verdict="fail", why=("the candidate has no such output",))
        )
    verdicts = {output.verdict for output in outputs.values()}
    worst: tuple[Verdict, ...] = ("fail", "reference not finite", "pass")
    verdict = next(one for one in worst if one in verdicts or one == "pass")
    return StressResult(
        kind=one.kind, name=one.name, sizes=dict(case.sizes), outputs=outputs, verdict=verdict, note=one.note
    )


def _refused(case: StressCase, error: Exception) -> list[StressResult]:
    """Rules 1 and 3 of the reference."""
    verdict: Verdict = "inconclusive" if isinstance(error, MachineError) else "reference refuses"
    return [_without(case, one, verdict, _why(error)) for one in case.named]


def _raised(case: StressCase, one: Named, error: Exception) -> StressResult:
    """Rules 2 and 3 of the candidate."""
    verdict: Verdict = "inconclusive" if isinstance(error, MachineError) else "fail"
    return _without(case, one, verdict, _why(error))


def _without(case: StressCase, one: Named, verdict: Verdict, why: str) -> StressResult:
    return StressResult(
        kind=one.kind, name=one.name, sizes=dict(case.sizes), outputs={}, verdict=verdict, note=_joined(why, one.note)
    )


def _joined(*notes: str) -> str:
    return "; ".join(filter(None, notes))


def _why(error: Exception) -> str:
    text = error.message if isinstance(error, MmtrtError) else f"{type(error).__name__}: {error}"
    return (text.strip().splitlines() or [type(error).__name__])[0][:300]
