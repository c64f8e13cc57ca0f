"""How a check differs from an earlier one of the same model: worse than that may drift, also within budget.

The samples are the same, so what differs is the model, its build, or rounding elsewhere. Each tolerance is what a
build may differ by that nobody touched; decision 0034 gives the reasons.

1. SQNR: 1 dB, an error that is larger by an eighth. From 100 dB on the error is rounding of FP32 itself, which another
   processor or runtime does in another order: 6 dB, twice the error.
2. Metrics that are at most: a factor. The relative error's is rule 1's; of the largest error and of percentiles, which
   hang on few values, a half more.
3. Metrics that are at least, of which 1 is perfect: what lacks to 1, by a factor. A cosine lacks the error's square.
4. Shares of samples, and task metrics: not below what the earlier share leaves open by its 95% interval (Wilson 1927,
   eq. 6) over the samples.
5. Values that are not finite: none more.
6. A hard case that passed: it passes, and its SQNR is worse by at most 3 dB, since it is one batch.
7. What was judged before and is not now has vanished.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mmtrt.metrics.intervals import wilson_interval
from mmtrt.parity.budget import AT_LEAST, AT_MOST
from mmtrt.results import CheckResult, OutputResult, StressResult

__all__ = ["Change", "Drift", "drift_of"]

_DB = 1.0
_ROUNDING_DB = 100.0
_DB_OF_ROUNDING = 6.0
_DB_OF_A_CASE = 3.0
_FACTOR = 1.5
_FACTORS: Mapping[str, float] = {"rel_l2": 10 ** (_DB / 20), "cosine": 10 ** (_DB / 10)}
_FACTOR_OF_ROUNDING = 10 ** (_DB_OF_ROUNDING / 10)
_NOTHING = 1e-9
"""Where two shares of an error are both so small, their quotient says nothing."""

_SHARE = "_agreement"
"""What the names of shares of samples end with."""

_COUNTED = ("pass", "fail", "inconclusive")
"""Verdicts of what was judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One figure that moved: where, from what to what, and the bound that its tolerance made of the earlier one."""

    where: str
    metric: str
    before: float | None
    now: float | None
    bound: float | None
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """What is worse than an earlier check allows, and what is better by as much."""

    worse: tuple[Change, ...]
    better: tuple[Change, ...]

    def to_json(self, baseline: str) -> dict[str, Any]:
        """Return what stands under `drift`."""
        return {
            "baseline": baseline,
            "verdict": "fail" if self.worse else "pass",
            "worse": [asdict(change) for change in self.worse],
            "better": [asdict(change) for change in self.better],
        }


def drift_of(before: CheckResult, now: CheckResult) -> Drift:
    """Compare two checks over the same samples, output by output and hard case by hard case."""
    worse: list[Change] = []
    better: list[Change] = []
    for name, output in before.outputs.items():
        where = f"output {name}"
        if name not in now.outputs:
            worse.append(_gone(where, "the output"))
            continue
        worse += _worse(where, output, now.outputs[name], before.samples)
        # Better is worse the other way around.
        better += [
            _turned(change) for change in _worse(where, now.outputs[name], output, before.samples) if change.metric
        ]
    cases = {(case.kind, case.name): case for case in now.stress}
    for case in before.stress:
        if case.verdict in _COUNTED:
            worse += _worse_case(case, cases.get((case.kind, case.name)))
    return Drift(worse=tuple(worse), better=tuple(better))


def _turned(change: Change) -> Change:
    why = f"{change.metric} {_told(change.now)} became {_told(change.before)}"
    return Change(where=change.where, metric=change.metric, before=change.now, now=change.before, bound=None, why=why)


def _gone(where: str, what: str) -> Change:
    why = f"{what} was judged before and is not now"
    return Change(where=where, metric="", before=None, now=None, bound=None, why=why)


def _worse(where: str, before: OutputResult, now: OutputResult, samples: int) -> Iterator[Change]:
    """Rules 1 to 5 and 7 on one output."""
    rounding = min(_sqnr_db(before), _sqnr_db(now)) >= _ROUNDING_DB
    for metric, value in before.metrics.items():
        if metric == "sqnr_db":
            yield from _worse_sqnr(where, before, now, _DB_OF_ROUNDING if rounding else _DB)
        elif value is None or metric not in AT_LEAST + AT_MOST:
            continue
        elif (found := now.metrics.get(metric)) is None:
            yield _gone(where, metric)
        else:
            yield from _moved(where, metric, value, found, samples, rounding=rounding)
    # JSON has no NaN: what could not be measured comes back as None.
    tasks: Mapping[str, float | None] = before.task
    tasks_now: Mapping[str, float | None] = now.task
    for metric, share in tasks.items():
        new = tasks_now.get(metric)
        if share is not None and new is None:
            yield _gone(where, metric)
        elif share is not None and new is not None:
            yield from _below(where, metric, share, new, wilson_interval(_share(share), samples)[0])


def _moved(where: str, metric: str, before: float, now: float, samples: int, *, rounding: bool) -> Iterator[Change]:
    """Rules 2 to 5 on one metric."""
    factor = _FACTOR_OF_ROUNDING if rounding else _FACTORS.get(metric, _FACTOR)
    if metric == "non_finite":
        yield from _above(where, metric, before, now, before)
    elif metric.endswith(_SHARE):
        yield from _below(where, metric, before, now, wilson_interval(_share(before), samples)[0])
    elif metric in AT_MOST:
        yield from _above(where, metric, before, now, max(before * factor, _NOTHING))
    else:
        yield from _below(where, metric, before, now, 1 - max((1 - before) * factor, _NOTHING))


def _worse_sqnr(where: str, before: OutputResult, now: OutputResult, tolerance_db: float) -> Iterator[Change]:
    was, found = _sqnr_db(before), _sqnr_db(now)
    # From an exact match, what is still only rounding is no drift.
    bound = min(was - tolerance_db, _ROUNDING_DB + _DB_OF_ROUNDING) if was == math.inf else was - tolerance_db
    yield from _below(where, "sqnr_db", was, found, bound)


def _worse_case(before: StressResult, now: StressResult | None) -> Iterator[Change]:
    """Rules 5 to 7 on one hard case."""
    where = f"stress {before.kind}, {before.name}"
    if now is None or now.verdict not in _COUNTED:
        yield _gone(where, "the hard case" + (f" ({now.note})" if now is not None and now.note else ""))
        return
    if before.verdict == "pass" and now.verdict != "pass":
        yield Change(where=where, metric="", before=None, now=None, bound=None, why=f"passed before: {now.verdict} now")
        return
    for name, output in before.outputs.items():
        if output.verdict not in _COUNTED:
            continue
        inner = f"{where}, output {name}"
        if name not in now.outputs:
            yield _gone(inner, "the output")
            continue
        new = now.outputs[name]
        count, counted = output.metrics.get("non_finite"), new.metrics.get("non_finite")
        if count is not None and counted is not None:
            yield from _above(inner, "non_finite", count, counted, count)
        if "sqnr_db" in output.metrics and "sqnr_db" in new.metrics:
            rounding = min(_sqnr_db(output), _sqnr_db(new)) >= _ROUNDING_DB
            yield from _worse_sqnr(inner, output, new, _DB_OF_ROUNDING if rounding else _DB_OF_A_CASE)


def _below(where: str, metric: str, before: float, now: float, bound: float) -> Iterator[Change]:
    if not now >= bound:
        yield _change(where, metric, before, now, bound, "at least")


def _above(where: str, metric: str, before: float, now: float, bound: float) -> Iterator[Change]:
    if not now <= bound:
        yield _change(where, metric, before, now, bound, "at most")


def _change(where: str, metric: str, before: float, now: float, bound: float, way: str) -> Change:
    why = f"{metric} {_told(before)} became {_told(now)}; tolerated is {way} {_told(bound)}"
    finite = [value if math.isfinite(value) else None for value in (before, now, bound)]
    return Change(where=where, metric=metric, before=finite[0], now=finite[1], bound=finite[2], why=why)


def _told(value: float | None) -> str:
    return "none" if value is None else f"{value:.7g}"


def _share(value: float) -> float:
    return min(max(value, 0.0), 1.0)


def _sqnr_db(output: OutputResult) -> float:
    """JSON has no infinity: an SQNR that is None is that of an exact match, or of one that is no match at all."""
    value = output.metrics.get("sqnr_db")
    if value is not None:
        return float(value)
    exact = output.metrics.get("max_abs") == 0 and not output.metrics.get("non_finite")
    return math.inf if exact else -math.inf
