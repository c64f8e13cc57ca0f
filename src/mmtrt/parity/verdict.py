"""From what was measured to a verdict: pass, fail, or too few samples to tell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mmtrt.metrics import Comparison
from mmtrt.metrics.intervals import samples_needed, wilson_interval
from mmtrt.parity.budget import PHRASES, SHARES, Budget, for_output, held, out_of_bound
from mmtrt.results import Verdict

__all__ = ["VARIANCE_EVENTS", "Judgement", "judge", "seen_out", "whole_verdict"]

VARIANCE_EVENTS: Mapping[str, int] = {"explained_variance": 8, "worst_explained_variance": 32}
"""So many samples tell how an output varies; the worst of many channels takes more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The bounds that one output was held to, the verdict, why, and the 95% intervals of what samples only show."""

    bounds: Mapping[str, float]
    verdict: Verdict
    why: tuple[str, ...] = ()
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def judge(
    output: str,
    comparison: Comparison,
    budget: Budget,
    precision: str,
    *,
    drops: Mapping[str, float] | None = None,
    phrases: tuple[float, int] | None = None,
) -> Judgement:
    """Hold one output of a candidate of some precision to a budget, and to the defaults where that says nothing.

    `drops` holds `<task metric>_drop`, `phrases` the share of equal ones and of how many events. A share of what agrees
    (`SHARES`) passes where the lower end of its 95% interval is at least the bound, fails where the upper end is below,
    and is inconclusive between. A bound of 1 is no claim about other samples, which no number of these could
    prove: all of these have to agree. That is enough for a default too: who gave no bound asked for no proof.
    """
    shown = {**(drops or {}), **({PHRASES: phrases[0]} if phrases else {})}
    measured = {**comparison.measured(), **shown}
    events = {**dict.fromkeys(SHARES, comparison.events), **({PHRASES: phrases[1]} if phrases else {})}
    shares = {name: value for name in SHARES if (value := measured.get(name)) is not None}
    intervals = {name: wilson_interval(share, events[name]) for name, share in shares.items()}
    bounds, unsure = _bounds(output, comparison, budget, precision, measured)
    given = for_output(budget, output)
    failed = []
    for metric, bound in bounds.items():
        if metric in intervals and (metric in given or shares[metric] < 1):
            out, doubt = _share(metric, shares[metric], bound, events[metric], intervals[metric])
            failed += out
            unsure += doubt
        elif why := out_of_bound(metric, _number(measured.get(metric)), bound):
            failed.append(why)
    if not comparison.compared and not failed:
        unsure.append("the reference has no finite value here: there was nothing to compare")
    verdict: Verdict = "fail" if failed else "inconclusive" if unsure else "pass"
    return Judgement(bounds=bounds, verdict=verdict, why=(*failed, *unsure), intervals=intervals)


def seen_out(
    output: str, comparison: Comparison, budget: Budget, precision: str, drops: Mapping[str, float]
) -> tuple[str, ...]:
    """Return what is out of the same bounds on these very samples, whatever others would show: for a search."""
    measured = {**comparison.measured(), **drops}
    bounds, _ = _bounds(output, comparison, budget, precision, measured)
    found = (out_of_bound(metric, _number(measured.get(metric)), bound) for metric, bound in bounds.items())
    return tuple(why for why in found if why)


def _bounds(
    output: str, comparison: Comparison, budget: Budget, precision: str, measured: Mapping[str, float | None]
) -> tuple[dict[str, float], list[str]]:
    """The bounds that can be judged, and in words what was given and can't be."""
    given = for_output(budget, output)
    bounds, unsure = {}, []
    for metric, bound in held(budget, output, precision, comparison.kind).items():
        few = comparison.events < VARIANCE_EVENTS.get(metric, 0)
        own = f"{output}:{metric}" in budget
        if measured.get(metric) is not None and not few:
            bounds[metric] = bound
        elif metric in VARIANCE_EVENTS:
            # What is given for every output is held where there is something that varies.
            unsure += [_no_variance(metric, bound, comparison.events)] if own or (few and metric in given) else []
        elif own or (metric in given and metric in measured):
            # A drop or phrases that a bound is given on for every output may be measured of others alone.
            bounds[metric] = bound
    return bounds, unsure


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _no_variance(metric: str, bound: float, events: int) -> str:
    needed = VARIANCE_EVENTS[metric]
    why = f"{events} samples can't tell; {needed} would" if events < needed else "the reference does not vary"
    return f"{metric} can't be held to {bound:g}: {why}"


def _share(
    metric: str, share: float, bound: float, events: int, interval: tuple[float, float]
) -> tuple[list[str], list[str]]:
    """What is out of bounds, and what can't be told."""
    low, high = interval
    if bound >= 1 or high < bound or math.isnan(share):
        why = out_of_bound(metric, share, bound)
        return ([why] if why else []), []
    if low >= bound:
        return [], []
    needed = samples_needed(share, bound)
    would = "no number would: it lies on the bound" if needed is None else f"about {needed} would"
    told = f"{metric} {share:.5g} is {low:.3f} to {high:.3f} at 95%, and {bound:g} lies between"
    return [], [f"{told}: {events} samples can't tell; {would}"]


def whole_verdict(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the verdict of all: fail if any fails, else inconclusive if any is, else pass."""
    found = set(verdicts)
    return "fail" if "fail" in found else "inconclusive" if "inconclusive" in found else "pass"
