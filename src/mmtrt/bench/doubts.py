"""What a reader of a row should doubt: a machine too noisy, one that drifts, a time that is not the model's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from mmtrt.bench.statistics import Interval, Spread

__all__ = ["NOISY_CV", "doubts"]

NOISY_CV: Final[Mapping[str, float]] = {"cuda_event": 0.05, "host": 0.2}
"""A GPU alone with its work repeats to about 1%. A host's clock sees the scheduler too, whose rare delays are usual."""
UNSURE: Final = 0.015
"""Half of the regression that a gate is usually asked to see: a median known no better can't serve it."""
DRIFT: Final = 0.03
FEW: Final = 100
"""The p99 of fewer times is their largest."""


def doubts(times: Spread, interval: Interval, clock: str, parts: Mapping[str, float | None]) -> Iterator[str]:
    """Yield warnings of a row; `parts` are medians in ms: `enqueue`, `h2d`, `compute`, `d2h`, where they are known."""
    if not times.cv <= NOISY_CV[clock]:
        yield (
            f"noisy: the coefficient of variation is {_percent(times.cv)}, above {_percent(NOISY_CV[clock])}: "
            "something else ran on this machine, or its clocks moved"
        )
    half = max(interval[1] / times.p50 - 1, 1 - interval[0] / times.p50) if times.p50 > 0 else 0.0
    if not half <= UNSURE:
        yield f"unsure: the median is known to {_percent(half)} only: measure longer, or on a quieter machine"
    if times.drifted and not abs(times.drift) <= DRIFT:
        yield (
            f"drift: the second half's median is {_percent(abs(times.drift))} "
            f"{'above' if times.drift > 0 else 'below'} the first's: warm up longer, or hold the clocks"
        )
    if times.n < FEW:
        yield f"few: {times.n} times; p99 of fewer than {FEW} is their largest"
    yield from _bounds(parts)


def _bounds(parts: Mapping[str, float | None]) -> Iterator[str]:
    compute = parts.get("compute")
    if compute is None:
        return
    enqueue = parts.get("enqueue")
    if enqueue is not None and enqueue > compute:
        yield f"host-bound: enqueueing takes {enqueue:.3f} ms and the GPU {compute:.3f} ms: use CUDA graphs"
    for name, words in (("h2d", "the inputs' copies"), ("d2h", "the outputs' copies")):
        copies = parts.get(name)
        if copies is not None and copies > compute:
            yield f"copy-bound: {words} take {copies:.3f} ms and the GPU {compute:.3f} ms"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
