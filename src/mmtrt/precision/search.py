"""Which layers stay FP16 so that a budget holds, with the largest INT8 share of the compute.

1. Each layer's noise alone is measured on a few samples (`sensitivity.py`); layers are ranked by noise per
   multiply-accumulate.
2. How many of the ranking's first have to stay FP16 is found by bisection: each trial runs the judging samples with a
   placement as a whole, since noise of several layers may add up or cancel.
3. Layers that stayed are given back, those with the most work first, while the budget still holds.
4. The model is written and judged again as it is, FP16's rounding included.

A trial passes where the budget holds on each half of the judging samples, so that it holds on new ones too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mmtrt.precision.convert import Price
from mmtrt.precision.converted import Converted
from mmtrt.precision.options import PrecisionOptions
from mmtrt.precision.sensitivity import LayerLoss, Measured, Probe, losses, opened_for_judging
from mmtrt.runtimes.ort import OrtRunner

__all__ = ["Judge", "SearchResult", "search"]

_GIVEN_BACK_TRIALS = 12
_WRITTEN_TRIALS = 4


Judge = Callable[[Measured], tuple[str, ...]]
"""Says what of a measurement is out of budget, in words; nothing where it holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """What a search found: `met` says whether the written model is within budget on the judging samples.

    `outside` names what is not; `kept` are the layers that stay FP16 for the budget; `inferences` is the cost in passes
    over the whole set, `trials` how many placements were run as a whole.
    """

    converted: Converted
    met: bool
    outside: tuple[str, ...]
    kept: tuple[LayerLoss, ...]
    metrics: Mapping[str, Mapping[str, float | int | None]]
    judged_on: int
    trials: int
    inferences: float
    wall_s: float

    def summary(self) -> dict[str, Any]:
        """Return plain data on the search, the conversion left out."""
        return {name: value for name, value in asdict(self).items() if name != "converted"}


def search(
    source: Path,
    target: Path,
    options: PrecisionOptions,
    *,
    samples: str,
    judge: Judge,
    count: int | None = None,
    ranges: Mapping[str, tuple[int, int, int]] | None = None,
    tasks: Mapping[str, Sequence[str]] | None = None,
    price: Price | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> SearchResult:
    """Convert to INT8 with as many layers as `judge` allows, and write `target`.

    `tasks` names task metrics by output, for which the samples carry labels. Where the budget can't be met, what is
    written has no INT8 layer left that could be taken back. Errors are those of `convert`.
    """
    start = time.perf_counter()
    conversion, judging, total = opened_for_judging(source, options, samples, count, ranges, note, price)
    probe = Probe(conversion, judging, tasks)
    work = _Search(probe, judge, losses(conversion, probe))
    kept = work.find()
    for _ in range(_WRITTEN_TRIALS):
        converted = conversion.finish(target, keep={loss.name: _why(loss) for loss in kept})
        measured = _written(source, target, probe)
        outside = judge(measured)
        more = work.next_worst(kept)
        if not outside or more is None:
            break
        note("what was written is out of budget by FP16's rounding: one more layer stays FP16")
        kept = [*kept, more]
    order = sorted(kept, key=lambda loss: -loss.noise)
    return SearchResult(
        converted=replace(converted, notes=tuple(conversion.notes)),
        met=not outside,
        outside=outside,
        kept=tuple(order),
        metrics={name: one.values() for name, one in measured.outputs.items()},
        judged_on=sum(len(batch.indices) for batch in judging),
        trials=work.trials,
        inferences=probe.samples_run / total,
        wall_s=time.perf_counter() - start,
    )


def _why(loss: LayerLoss) -> str:
    output, worst = min(
        ((name, value) for name, value in loss.sqnr_db.items() if value is not None),
        key=lambda pair: pair[1],
        default=("", None),
    )
    if worst is None:
        return "the budget"
    return f"the budget: alone in INT8 it leaves {output!r} {worst:.1f} dB"


def _written(source: Path, target: Path, probe: Probe) -> Measured:
    """Judge the file itself against the FP32 one."""
    with OrtRunner(source, "parity") as told, OrtRunner(target, "parity") as got:
        return probe.compared(lambda batch: told.infer(batch.feeds), lambda batch: got.infer(batch.feeds))


class _Search:
    """The search over placements; the file is somebody else's business."""

    def __init__(self, probe: Probe, judge: Judge, ranked: Sequence[LayerLoss]) -> None:
        self._probe = probe
        self._judge = judge
        self._losses = list(ranked)
        self._order = sorted(range(len(ranked)), key=lambda i: -ranked[i].noise / max(ranked[i].mac_share, 1e-9))
        self.trials = 0

    def find(self) -> list[LayerLoss]:
        """Return the layers that stay FP16."""
        low, high = 0, len(self._order)  # so many of the first stay: `high` is enough, or all there is
        while low < high:
            middle = (low + high) // 2
            if self._holds(set(self._order[middle:])):
                high = middle
            else:
                low = middle + 1
        stay = self._order[:low]
        # The last one was what tipped the balance; of the others some may have been taken along.
        for index in sorted(stay[:-1], key=lambda i: -self._losses[i].mac_share)[:_GIVEN_BACK_TRIALS]:
            fewer = [i for i in stay if i != index]
            if self._holds(set(self._order) - set(fewer)):
                stay = fewer
        return [self._losses[i] for i in stay]

    def next_worst(self, kept: Sequence[LayerLoss]) -> LayerLoss | None:
        """Return the next layer of the ranking that is not kept yet."""
        names = {loss.name for loss in kept}
        return next((self._losses[i] for i in self._order if self._losses[i].name not in names), None)

    def _holds(self, on: set[int]) -> bool:
        self.trials += 1
        return not any(self._judge(self._probe.measured(on, half)) for half in self._probe.halves() if half)
