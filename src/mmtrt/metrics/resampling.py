"""What a difference between two task metrics on the same events says of other events: the paired bootstrap."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mmtrt.metrics.task import TaskMetric

__all__ = ["drop_interval"]

_RESAMPLES: Final = 400
_AT_ONCE: Final = 1 << 22
"""Weights held at a time: 32 MiB."""


def drop_interval(reference: TaskMetric, candidate: TaskMetric) -> tuple[float, float] | None:
    """Return the 95% interval of `reference.value - candidate.value`; None where that needs more than is there.

    Events are drawn anew, with replacement, for both sides alike (Efron and Tibshirani 1993, An Introduction to the
    Bootstrap, chapters 8 and 13): what both find hard cancels. The draws are the same each time.
    """
    events = reference.events
    if events < 2 or candidate.events != events:
        return None
    drops = np.concatenate([reference.resampled(w) - candidate.resampled(w) for w in _weights(events)])
    drops = drops[np.isfinite(drops)]
    if len(drops) < _RESAMPLES // 2:
        return None
    low, high = np.quantile(drops, [0.025, 0.975])
    return float(low), float(high)


def _weights(events: int) -> Iterator[NDArray[np.int64]]:
    """How often each event was drawn, `(R, events)`, some resamples at a time."""
    rng = np.random.default_rng(0)
    rows = max(1, _AT_ONCE // events)
    for first in range(0, _RESAMPLES, rows):
        yield rng.multinomial(events, np.full(events, 1 / events), size=min(rows, _RESAMPLES - first))
