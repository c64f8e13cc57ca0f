"""INT8 scales and codes: symmetric, per tensor or per channel."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from mmtrt.machine import available_cores
from mmtrt.tensors import Array

__all__ = ["LEVELS", "dequantized", "int8_scale", "quantize", "weight_scales"]

LEVELS = 127
"""Largest INT8 code; -128 is left out, so that the range is symmetric and TensorRT's rule for weights holds."""


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
    scaled = array.astype(np.float32) / _along(scale, axis, array.ndim)
    return np.clip(np.rint(scaled, out=scaled), -LEVELS, LEVELS, out=scaled).astype(np.int8)


def dequantized(codes: Array, scale: Array, axis: int | None = None) -> Array:
    """Return what codes stand for, float32."""
    return np.asarray(codes.astype(np.float32) * _along(scale, axis, codes.ndim), dtype=np.float32)


def _along(scale: Array, axis: int | None, rank: int) -> Array:
    if axis is None:
        return scale
    shape = [1] * rank
    shape[axis] = -1
    return scale.reshape(shape)


_SHRINK = np.linspace(1.0, 0.6, 11)
_FEW = 512
"""Channels of so many elements or fewer are tried out; in longer ones rounding is as even as theory has it."""
_TAIL = 8
"""One of so many elements, the largest ones, may be clipped."""
_BLOCK = 1 << 16
"""Elements worked on at a time: what a core's cache holds."""


def weight_scales(weight: Array, axis: int) -> Array:
    """Scale per channel, `(C,)`, with the least squared error among 0.6 to 1.0 times the channel's largest |value|.

    Of a long channel the error is that of what is clipped, and a step's square / 12 for each of the others (Widrow and
    Kollar 2008, Quantization Noise, chapter 4). ValueError where a weight is not finite.
    """
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.float32, copy=False)
    step = max(1, _BLOCK // max(1, rows.shape[1]))
    blocks = [rows[first : first + step] for first in range(0, len(rows), step)]
    with ThreadPoolExecutor(available_cores()) as pool:
        return np.concatenate([np.zeros(0, dtype=np.float32), *pool.map(_best_scales, blocks)])


def _best_scales(rows: Array) -> Array:
    sizes = np.abs(rows)
    amax = sizes.max(axis=1, initial=0.0)
    if not np.isfinite(amax).all():
        raise ValueError("the weight is not finite")
    lost = _lost_exactly(sizes, amax) if rows.shape[1] <= _FEW else _lost_on_average(sizes, amax)
    best = np.argmin(lost, axis=0)
    return int8_scale(amax * _SHRINK.astype(np.float32)[best])


def _lost_exactly(sizes: Array, amax: Array) -> Array:
    lost = np.empty((len(_SHRINK), len(sizes)))
    error = np.empty_like(sizes)
    for index, shrink in enumerate(_SHRINK):
        scale = int8_scale(amax * np.float32(shrink))
        np.divide(sizes, scale[:, None], out=error)
        np.rint(error, out=error)
        np.minimum(error, LEVELS, out=error)
        error *= scale[:, None]
        error -= sizes
        lost[index] = np.einsum("ck,ck->c", error, error)
    return lost


def _lost_on_average(sizes: Array, amax: Array) -> Array:
    count = np.count_nonzero(sizes, axis=1)
    tail = sizes.shape[1] // _TAIL
    largest = np.partition(sizes, -tail, axis=1)[:, -tail:]
    reached = largest[:, 0]
    lost = np.empty((len(_SHRINK), len(sizes)))
    for index, shrink in enumerate(_SHRINK):
        limit = amax * np.float32(shrink)
        beyond = np.maximum(largest - limit[:, None], 0)
        lost[index] = np.einsum("ck,ck->c", beyond, beyond) + count * np.square(limit / LEVELS) / 12
        lost[index][limit < reached] = np.inf
    return lost
