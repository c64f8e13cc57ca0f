"""Thresholds from histograms: the |value| that INT8's largest code stands for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from mmtrt.metrics.histogram import BINS, Histogram, edges
from mmtrt.precision.scales import LEVELS

__all__ = ["METHODS", "threshold"]

_PERCENTILE = 99.99
_LINEAR_BINS = 2048
_Float64 = npt.NDArray[np.float64]


def threshold(histogram: Histogram, method: str) -> float:
    """Return the |value| that INT8's largest code stands for; `method` is one of METHODS."""
    return METHODS[method](histogram)


def _max(histogram: Histogram) -> float:
    return histogram.amax


def _percentile(histogram: Histogram) -> float:
    total = int(histogram.counts.sum())
    seen = np.cumsum(histogram.counts)
    index = int(np.searchsorted(seen, total * (_PERCENTILE / 100)))
    return min(histogram.amax, float(edges()[min(index + 1, BINS)]))


def _mse(histogram: Histogram) -> float:
    """Threshold with the least mean squared error of 8-bit symmetric quantization.

    Values below half a step vanish, values up to the threshold carry the uniform error step^2 / 12, values
    beyond are clipped (Banner et al. 2019, arXiv:1810.05723, section 3).
    """
    used = np.flatnonzero(histogram.counts)
    if not used.size or histogram.amax == 0:
        return histogram.amax
    grid = edges()
    counts = histogram.counts[used].astype(np.float64)
    centre = np.minimum((grid[used] + grid[used + 1]) / 2, histogram.amax)
    n, s, q = (np.concatenate([[0.0], np.cumsum(counts * centre**power)]) for power in (0, 1, 2))
    candidates = histogram.amax * np.linspace(1.0, 0.02, 197)
    step = candidates / LEVELS
    vanish = np.searchsorted(centre, step / 2)
    clip = np.searchsorted(centre, candidates)
    error = (
        q[vanish]
        + (n[clip] - n[vanish]) * step**2 / 12
        + (q[-1] - q[clip])
        - 2 * candidates * (s[-1] - s[clip])
        + candidates**2 * (n[-1] - n[clip])
    )
    return float(candidates[int(np.argmin(error))])


def _entropy(histogram: Histogram) -> float:
    """Threshold whose 128 levels lose the least information: the smallest Kullback-Leibler divergence.

    The distribution clipped at the threshold, its outliers in the last bin, against what 128 levels make of it
    (Migacz 2017, "8-bit inference with TensorRT", GTC). Zeros are left out: INT8 keeps them whatever the scale.
    """
    if histogram.amax == 0:
        return 0.0
    bins = _linear(histogram)
    candidates = range(LEVELS + 1, _LINEAR_BINS + 1, 16)
    loss = [_divergence(bins, i) for i in candidates]
    return histogram.amax * candidates[int(np.argmin(loss))] / _LINEAR_BINS


def _linear(histogram: Histogram) -> _Float64:
    """Spread the log-spaced counts over equal bins from 0 to `amax`, evenly within each; zeros left out."""
    used = np.flatnonzero(histogram.counts)
    used = used[used > 0]
    grid = np.minimum(edges(), histogram.amax)
    if not used.size:
        return np.zeros(_LINEAR_BINS)
    total = np.concatenate([[0.0], np.cumsum(histogram.counts[used].astype(np.float64))])
    # The cumulative counts as a function of |x|: linear within each used bin of the log grid, level between them.
    x = np.stack([grid[used], grid[used + 1]], axis=1).reshape(-1)
    at = np.linspace(0, histogram.amax, _LINEAR_BINS + 1)
    return np.diff(np.interp(at, x, np.stack([total[:-1], total[1:]], axis=1).reshape(-1)))


def _divergence(bins: _Float64, size: int) -> float:
    clipped = bins[:size].copy()
    clipped[-1] += bins[size:].sum()
    there = bins[:size] > 0
    level = np.arange(size) * (LEVELS + 1) // size
    mass = np.bincount(level, weights=bins[:size], minlength=LEVELS + 1)
    filled = np.bincount(level, weights=there, minlength=LEVELS + 1)
    spread = np.where(there, mass[level] / np.maximum(filled[level], 1), 0.0)
    if clipped.sum() == 0 or spread.sum() == 0:
        return float("inf")
    p, q = clipped / clipped.sum(), spread / spread.sum()
    fine = (p > 0) & (q > 0)
    lost = p[(p > 0) & (q == 0)].sum()  # mass where the levels have none: the last bin, if only outliers fill it
    return float((p[fine] * np.log(p[fine] / q[fine])).sum() + lost)


METHODS: Mapping[str, Callable[[Histogram], float]] = {
    "max": _max,
    "percentile": _percentile,
    "mse": _mse,
    "entropy": _entropy,
}
"""Calibration methods by name; each takes a histogram."""
