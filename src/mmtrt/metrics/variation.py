"""How much of what varies in an output from sample to sample a candidate keeps: explained variance, batch by batch."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mmtrt.tensors import Array

__all__ = ["VARIES", "Variation"]

VARIES: Final = 2.0**-8
"""A position varies where its standard deviation is more than this share of its RMS: eight steps of FP16."""

_POSITIONS_AT_MOST: Final = 1 << 21
"""Positions that have a mean of their own, 64 MiB of sums; beyond, and in ragged outputs, a channel has one."""


class Variation:
    """`1 - sum(error²) / sum((reference - its mean over the samples)²)`, the R² of statistics.

    An offset that all samples share makes an SQNR look fine, whatever the candidate says of a sample: of a reference of
    100 +- 1, a constant 100 is 40 dB, and explains nothing. The mean is that of each position `(...)` of `(B, ...)`;
    where samples differ in shape it is that of each channel of the last axis. Positions that do not vary
    beyond `VARIES` are left out: there is nothing to explain, and FP16 could not say it.
    Sums are merged as Chan, Golub and LeVeque have it (1979, Updating formulae, eq. 2.1), so that a large offset costs
    no digits.
    """

    __slots__ = ("_channels", "_moments", "_shape")

    def __init__(self) -> None:
        self._shape: tuple[int, ...] = ()
        self._channels = 1
        self._moments: _Moments | None = None

    def add(self, reference: NDArray[np.float64], error: NDArray[np.float64], fine: NDArray[np.bool_]) -> None:
        """Add a batch `(B, ...)`; only elements that are `fine` count, the others are 0 in both."""
        if not reference.size:
            return
        moments = self._moments = self._fitting(reference.shape[1:])
        moments.add(*(array.reshape(-1, len(moments.mean)) for array in (reference, error, fine)))

    def _fitting(self, shape: tuple[int, ...]) -> _Moments:
        """The sums, in as many columns as all shapes so far allow: positions, channels, or one."""
        channels = shape[-1] if shape else 1
        if self._moments is None:
            self._shape, self._channels = shape, channels
            size = math.prod(shape)
            return _Moments(size if size <= _POSITIONS_AT_MOST else channels)
        if shape == self._shape:
            return self._moments
        if channels != self._channels:
            # A last axis whose length is a size of the sample holds no channels.
            self._channels = 1
        return self._moments.pooled(self._channels)

    @property
    def explained(self) -> float | None:
        """Over all positions that vary; None where none does."""
        return None if self._moments is None else self._moments.explained(1)

    @property
    def worst(self) -> float | None:
        """The lowest of any channel of the last axis that varies; None where none does."""
        return None if self._moments is None else self._moments.explained(self._channels)


class _Moments:
    """Counts, means and squared deviations of K columns, and the squared error in each, `(K,)`."""

    __slots__ = ("count", "m2", "mean", "noise")

    def __init__(self, columns: int) -> None:
        self.count, self.mean, self.m2, self.noise = (np.zeros(columns) for _ in range(4))

    def add(self, values: Array, error: Array, fine: Array) -> None:
        """Merge rows `(N, K)`; what is not `fine` is 0."""
        count = fine.sum(axis=0).astype(np.float64)
        mean = values.sum(axis=0) / np.maximum(count, 1)
        apart = values - mean
        if not fine.all():
            apart[~fine] = 0
        self._merge(count, mean, np.einsum("nk,nk->k", apart, apart))
        self.noise += np.einsum("nk,nk->k", error, error)

    def _merge(self, count: Array, mean: Array, m2: Array) -> None:
        both = np.maximum(self.count + count, 1)
        apart = mean - self.mean
        self.m2 += m2 + apart * apart * (self.count * count / both)
        self.mean += apart * (count / both)
        self.count += count

    def pooled(self, columns: int) -> _Moments:
        """Return fewer columns: the K are `(..., columns)`, and those of equal last index become one."""
        if len(self.mean) == columns:
            return self
        count, mean, m2, noise = (sums.reshape(-1, columns) for sums in (self.count, self.mean, self.m2, self.noise))
        one = _Moments(columns)
        one.count, one.noise = count.sum(axis=0), noise.sum(axis=0)
        one.mean = (count * mean).sum(axis=0) / np.maximum(one.count, 1)
        one.m2 = m2.sum(axis=0) + (count * (mean - one.mean) ** 2).sum(axis=0)
        return one

    def explained(self, groups: int) -> float | None:
        """The lowest of so many groups of columns, `(..., groups)`; what does not vary beyond rounding is left out."""
        varies = self.m2 > VARIES**2 * (self.m2 + self.count * self.mean**2)
        noise, m2 = (np.where(varies, sums, 0).reshape(-1, groups).sum(axis=0) for sums in (self.noise, self.m2))
        seen = m2 > 0
        return float((1 - noise[seen] / m2[seen]).min()) if seen.any() else None
