"""What a share among so many samples says of the share among all: Wilson's interval."""

from __future__ import annotations

import math
from typing import Final

__all__ = ["CONFIDENCE", "samples_needed", "wilson_interval"]

CONFIDENCE: Final = 0.95

_Z: Final = 1.959963984540054
"""The normal distribution's 97.5% point: an interval of 95%."""


def wilson_interval(share: float, events: int) -> tuple[float, float]:
    """Return the 95% interval of a share in 0 to 1 among independent events; all of 0 to 1 where there are none.

    Wilson 1927 (Probable inference, eq. 6): the shares p for which what was seen is within 1.96 standard deviations,
    sqrt(p(1 - p) / n). That is the most by which the mean of any numbers in 0 to 1 may vary whose mean is p, so that
    `share` may be the mean of the events' own shares, of rows or elements that are not independent of each other.
    """
    if not events or math.isnan(share):
        return 0.0, 1.0
    square = _Z * _Z / events
    centre = (share + square / 2) / (1 + square)
    half = math.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    # At the ends themselves rounding would leave a part in 1e16.
    return max(0.0, centre - half) if share > 0 else 0.0, min(1.0, centre + half) if share < 1 else 1.0


def samples_needed(share: float, bound: float) -> int | None:
    """Return how many events would tell a share from a bound, if it stays as it is; None where none would.

    The interval is the score test turned around: the bound leaves it where `(share - bound)²` exceeds
    `1.96² bound (1 - bound) / n`.
    """
    apart = (share - bound) ** 2
    return math.ceil(_Z * _Z * bound * (1 - bound) / apart) if apart > 0 and 0 < bound < 1 else None
