"""Resizing of pictures, each method stated exactly and computed in float32, in one order: the same bits everywhere.

With `o` a row (or column) of the result, `n` rows going in and `m` coming out, pixels reach from `i` to `i + 1`, and
the centre of `o` lies at `c = (o + 0.5) * n / m`:

- `nearest`: the pixel that `c` lies in.
- `bilinear`: between the two pixels whose centres enclose `c` (half-pixel centres, no antialiasing).
- `bilinear_align_corners`: likewise at `o * (n - 1) / (m - 1) + 0.5`, so that the corners' centres meet.
- `bilinear_antialias`: the weighted mean of the pixels around `c`, weights falling linearly to 0 at a distance of
  `max(n / m, 1)` pixels, and summing to 1. The choice for pictures that are made much smaller.

Edges are repeated; rows are done before columns; nothing is rounded back to whole numbers.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ["Resize", "resized"]

Resize = Literal["none", "nearest", "bilinear", "bilinear_align_corners", "bilinear_antialias"]

Floats = npt.NDArray[np.float32]
_Taps = tuple[npt.NDArray[np.int64], Floats]
"""Which rows each row of the result is made of, and their weights, both `(taps, rows)`."""


def resized(pixels: npt.NDArray[np.uint8], size: tuple[int, int], method: Resize) -> Floats:
    """Pixels `(H, W, C)` at a size (height, width), as float32 in 0..255; the same size is left as it is."""
    result: npt.NDArray[np.uint8] | Floats = pixels
    for axis, wanted in enumerate(size):
        if result.shape[axis] != wanted:
            result = _along(result, axis, _taps(method, result.shape[axis], wanted))
    return np.asarray(result, dtype=np.float32)


def _along(pixels: npt.NDArray[np.uint8] | Floats, axis: int, taps: _Taps) -> Floats:
    rows, weights = taps
    shape = [1, 1, 1]
    shape[axis] = -1
    result: Floats | None = None
    # One tap after the other, in this order: a matrix product would sum in an order of its own on each machine.
    for index, weight in zip(rows, weights, strict=True):
        part = pixels.take(index, axis=axis) * weight.reshape(shape)
        result = part if result is None else result + part
    return np.asarray(result, dtype=np.float32)


@lru_cache(maxsize=64)
def _taps(method: Resize, size: int, wanted: int) -> _Taps:
    if method == "bilinear_antialias":
        return _antialiased(size, wanted)
    places = np.arange(wanted)
    if method == "nearest":
        # In whole numbers: a centre on the border of two pixels is in the later one, whatever the processor.
        return ((2 * places + 1) * size // (2 * wanted))[None], np.ones((1, wanted), dtype=np.float32)
    centres = (places + 0.5) * size / wanted
    at = places * (size - 1) / max(wanted - 1, 1) if method == "bilinear_align_corners" else centres - 0.5
    low = np.floor(at)
    share = at - low
    rows = np.clip(np.stack([low, low + 1]).astype(np.int64), 0, size - 1)
    return rows, np.stack([1 - share, share]).astype(np.float32)


def _antialiased(size: int, wanted: int) -> _Taps:
    reach = max(size / wanted, 1.0)
    centres = (np.arange(wanted) + 0.5) * size / wanted
    first = np.maximum(np.floor(centres - reach + 0.5).astype(np.int64), 0)
    last = np.minimum(np.floor(centres + reach + 0.5).astype(np.int64), size)
    rows = first[None, :] + np.arange(int((last - first).max()))[:, None]
    weights = np.maximum(1 - np.abs(rows + 0.5 - centres) / reach, 0) * (rows < last)
    return np.minimum(rows, size - 1), (weights / weights.sum(axis=0)).astype(np.float32)
