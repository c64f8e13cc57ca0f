"""Histograms of |values|, of activations or of errors: one pass, a fixed grid, memory that does not grow."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import numpy.typing as npt

from mmtrt.tensors import Array

__all__ = ["BINS", "SAMPLED", "Histogram", "edges", "even_stride", "largest"]

BINS = 1 << 15
"""Bins of the grid: the values of a float32's top 16 bits without the sign."""

SAMPLED = 1024
"""Elements of a sample that are counted."""

_HELD = 1 << 14


@cache
def edges() -> npt.NDArray[np.float64]:
    """Lower edges of the bins, and the upper one of the last, `(BINS + 1,)`.

    Bin i holds the floats whose top 16 bits, sign aside, are i; the last ones hold Inf and NaN, and stay empty.
    """
    bits = (np.arange(BINS + 1, dtype=np.uint32) << 16).astype(np.uint32)
    with np.errstate(invalid="ignore"):
        return bits.view(np.float32).astype(np.float64)


class Histogram:
    """Counts of |x| over a fixed, log-spaced grid: the top 16 bits of a float32 without its sign.

    One pass, no range needed first, 288 KiB at most whatever was seen; two histograms add up to that of both sets.
    `amax` is exact; counts are of at most 1,024 elements a sample, at a stride that shares no factor with the
    sample's size, so that every channel and position takes part. Resolution is 2**-7 relative.
    """

    __slots__ = ("_counts", "_held", "_waiting", "amax")

    def __init__(self) -> None:
        self.amax = 0.0
        self._counts = np.zeros(BINS, dtype=np.int64)
        # Counting costs as much for a few elements as for many: small batches wait for each other.
        self._waiting: list[npt.NDArray[np.uint16]] = []
        self._held = 0

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Elements seen per bin, `(BINS,)`."""
        if self._waiting:
            found = np.bincount(np.concatenate(self._waiting))
            self._counts[: len(found)] += found
            self._waiting, self._held = [], 0
        return self._counts

    def add(self, batch: Array, *, amax: float | None = None, each: int = SAMPLED) -> None:
        """Add a batch `(B, ...)` of float32 activations, the largest |value| if known; ValueError if not finite.

        Of each of the B at most `each` elements are counted.
        """
        if not batch.size:
            return
        amax = largest(batch) if amax is None else amax
        if not math.isfinite(amax):
            raise ValueError("the activations are not finite")
        self.amax = max(self.amax, amax)
        rows = batch.reshape(batch.shape[0], -1)
        picked = np.ascontiguousarray(rows[:, :: even_stride(rows.shape[1], each)], dtype="<f4")
        self._waiting.append(picked.view("<u2").reshape(-1, 2)[:, 1] & np.uint16(BINS - 1))
        self._held += picked.size
        if self._held >= _HELD:
            _ = self.counts

    def quantile(self, share: float) -> float:
        """Return the smallest edge that `share` of the elements seen are at most, never more than `amax`.

        Exact to the grid's resolution, 2**-7, and never too small. 0 where nothing was seen.
        """
        counts = self.counts
        total = int(counts.sum())
        if not total:
            return 0.0
        place = int(np.searchsorted(np.cumsum(counts), math.ceil(share * total)))
        # The first bin holds zero, and subnormals that no output means.
        return min(float(edges()[place + 1]), self.amax) if place else 0.0

    def merge(self, other: Histogram) -> None:
        """Add what another histogram saw."""
        self._counts = self.counts + other.counts
        self.amax = max(self.amax, other.amax)


def largest(array: Array) -> float:
    """Return the largest |value|, NaN where there is one."""
    if not array.size:
        return 0.0
    low, high = float(np.minimum.reduce(array, axis=None)), float(np.maximum.reduce(array, axis=None))
    # Python's max would pass a NaN by.
    return low if math.isnan(low) else max(-low, high)


def even_stride(size: int, wanted: int) -> int:
    """Return a stride that leaves about so many of `size` elements and shares no factor with it.

    So that, of elements in rows of channels or of kernel places, all channels and places take part.
    """
    stride = max(1, -(-size // wanted))
    while math.gcd(stride, size) > 1:
        stride += 1
    return stride
