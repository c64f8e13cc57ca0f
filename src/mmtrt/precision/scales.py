"""Thresholds from histograms, and INT8 scales: symmetric, per tensor or per channel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mmtrt.precision.histogram import BINS, Histogram, edges
from mmtrt.tensors import Array

__all__ = ["METHODS", "int8_scale", "quantize", "threshold", "weight_scales"]

LEVELS = 127
"""Largest INT8 code; -128 is left out, so that the range is symmetric and TensorRT's rule for weights holds."""

_PERCENTILE = 99.99


# ------------------------------------------------------------------------------------------------- thresholds


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


METHODS: Mapping[str, Callable[[Histogram], float]] = {"max": _max, "mse": _mse, "percentile": _percentile}


def threshold(histogram: Histogram, method: str) -> float:
    """Return the |value| that INT8's largest code stands for; `method` is one of METHODS."""
    return METHODS[method](histogram)


# ----------------------------------------------------------------------------------------------------- scales


def int8_scale(amax: Any) -> Array:
    """Step per tensor or channel, float32, from the largest |value|, float; raises ValueError on NaN and Inf.

    Symmetric int8, NVIDIA 2020 (arXiv:2004.09602), eq. 4.
    """
    largest = np.asarray(amax, dtype=np.float32)
    if not np.isfinite(largest).all():
        raise ValueError("the range is not finite")
    scale = largest / np.float32(LEVELS)
    # A dead channel has amax 0, and TensorRT refuses a scale of 0; so do subnormals, which ONNX Runtime flushes.
    return np.where(scale >= np.finfo(np.float32).tiny, scale, np.float32(1)).astype(np.float32)


def quantize(array: Array, scale: Array, axis: int | None = None) -> Array:
    """Return int8 codes in -127 to 127, rounded half to even as ONNX's QuantizeLinear does."""
    shaped = scale
    if axis is not None:
        shape = [1] * array.ndim
        shape[axis] = -1
        shaped = scale.reshape(shape)
    return np.clip(np.rint(array.astype(np.float32) / shaped), -LEVELS, LEVELS).astype(np.int8)


_SHRINK = np.linspace(1.0, 0.6, 21)


def weight_scales(weight: Array, axis: int) -> Array:
    """Scale per channel, `(C,)`, with the least squared error among 0.6 to 1.0 times the channel's largest |value|."""
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.float32)
    if not np.isfinite(rows).all():
        raise ValueError("the weight is not finite")
    amax = np.abs(rows).max(axis=1, initial=0.0)
    best = int8_scale(amax)
    least = np.full(len(rows), np.inf)
    for shrink in _SHRINK:
        scale = int8_scale(amax * np.float32(shrink))
        error = np.square(quantize(rows, scale, 0) * scale[:, None] - rows, dtype=np.float64).sum(axis=1)
        better = error < least
        least = np.where(better, error, least)
        best = np.where(better, scale, best)
    return best.astype(np.float32)
