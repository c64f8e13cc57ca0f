"""One output of a hard case, held to its bounds.

1. Where the reference is not a number, or infinite and the candidate is not the same, nothing is owed; the rest of the
   output is held to its budget all the same. An output with such places is `reference not finite` unless its rest
   fails.
2. A side that is held to itself is no reference: what is not a number both times is the same, nothing else is.
3. An error is measured against the larger of the case's own signal and the reference's over the samples: an output
   that is all but zero in a case has no decibels of its own.
4. Integers have no error, only another value. One that differs is none where there are few: it may lie between two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from mmtrt.metrics import Comparison, as_infinities
from mmtrt.parity.budget import violations
from mmtrt.parity.side import Side
from mmtrt.parity.stress import BATCH_INVARIANCE, DETERMINISM, Named
from mmtrt.parity.stress_budget import VALUES, stress_bounds
from mmtrt.results import OutputResult, Verdict
from mmtrt.tensors import Array

__all__ = ["Scales", "held_output"]


class Scales:
    """The mean square of each of the reference's outputs, over what was added; its finite values count."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, outputs: Mapping[str, Array]) -> None:
        """Add a batch."""
        for name, array in outputs.items():
            known, _ = as_infinities(array, array)
            values = known[np.isfinite(known)].astype(np.float64)
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + float(values @ values), count + values.size)

    def of(self, output: str) -> float:
        """Return an output's mean square; 0 where nothing was added."""
        total, count = self._sums.get(output, (0.0, 0))
        return total / count if count else 0.0


def held_output(side: Side, named: Named, name: str, told: Array, got: Array, scales: Scales) -> OutputResult:
    """Hold an output `got` to what the reference `told`; a shape that differs fails."""
    bounds = stress_bounds(named, name, side.precision, side.budget, side.stress, dtype=str(told.dtype))
    if told.shape != got.shape:
        differ = f"the shapes differ: {told.shape} and {got.shape}"
        return OutputResult(metrics={}, budget=bounds, verdict="fail", why=(differ,))
    told, got = as_infinities(told, got)
    itself = named.kind in {DETERMINISM, BATCH_INVARIANCE}
    # An infinity that both have is a value like others.
    owed = ~(np.isnan(told) & np.isnan(got)) if itself else np.isfinite(told) | (told == got)
    whole = bool(owed.all())
    comparison = Comparison()
    comparison.add(told if whole else told[owed], got if whole else got[owed])
    ratio = _sqnr_db(told[owed], got[owed], scales.of(name))
    # JSON has no infinity.
    metrics = {**comparison.values(), "sqnr_db": ratio if math.isfinite(ratio) else None}
    found = comparison.measured()
    own = {key.rpartition(":")[2] for key in side.stress if key == f"{named.kind}/{name}:{key.rpartition(':')[2]}"}
    # What is given for every output is held where it can be: a row of one element has no largest.
    bounds = {m: bound for m, bound in bounds.items() if m in own or m == VALUES or found.get(m) is not None}
    measured = {metric: math.nan if value is None else float(value) for metric, value in found.items()}
    errors = {metric: bound for metric, bound in bounds.items() if metric != VALUES}
    why = violations({**measured, "sqnr_db": ratio}, {}, errors)
    if VALUES in bounds:
        share, out = _agreement(told, got, bounds[VALUES])
        metrics, why = {**metrics, VALUES: share}, (*why, *out)
    verdict: Verdict = "fail" if why else "pass" if whole or itself else "reference not finite"
    return OutputResult(metrics=metrics, budget=bounds, verdict=verdict, why=why)


def _agreement(told: Array, got: Array, bound: float) -> tuple[float, tuple[str, ...]]:
    """Rule 4: the share of equal values, and what is out of bounds."""
    differing = int((told != got).sum())
    share = 1 - differing / told.size if told.size else 1.0
    out = differing > 1 and not share >= bound
    return share, (f"{VALUES} {share:.5g} is below {bound:g}",) if out else ()


def _sqnr_db(told: Array, got: Array, usual: float) -> float:
    """Rule 3: dB of the larger of the signal and its usual mean square over the error's; infinite without an error."""
    both = np.isfinite(told) & np.isfinite(got)
    signal = told[both].astype(np.float64)
    if not signal.size:
        return math.inf
    noise = signal - got[both].astype(np.float64)
    power = float(noise @ noise) / signal.size
    if power == 0:
        return math.inf
    level = max(float(signal @ signal) / signal.size, usual)
    return 10 * (math.log10(level) - math.log10(power)) if level else -math.inf
