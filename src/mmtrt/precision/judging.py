"""What rounding does to the results of a layer, estimated from rows of its input and from few directions."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from mmtrt.precision.scales import LEVELS, int8_scale

__all__ = ["held_out", "picked", "power", "rounding_error", "sketched"]

_Float32 = npt.NDArray[np.float32]
_HELD_OUT = 4


def held_out(rows: int, block: int) -> npt.NDArray[np.bool_]:
    """Return which of the rows judge, `(R,)`: every fourth block, as rows of one sample are too alike to part."""
    held: npt.NDArray[np.bool_] = np.arange(rows) // block % _HELD_OUT == 0
    return held


def power(array: _Float32) -> float:
    """Return the sum of squares, in double."""
    return float(np.square(array, dtype=np.float64).sum())


def rounding_error(rows: _Float32, amax: float) -> _Float32:
    """Return what INT8 codes for |values| up to `amax` change, in the shape of the rows."""
    step = np.float32(int8_scale(amax))
    error = rows / step
    np.rint(error, out=error)
    np.clip(error, -LEVELS, LEVELS, out=error)
    error *= step
    error -= rows
    return error


def picked(weight: _Float32, columns: int) -> _Float32:
    """Return at most so many columns of a weight `(K, N)`, evenly over all sizes of columns from small to large."""
    count = weight.shape[1]
    if count <= columns:
        return weight
    order = np.argsort(np.einsum("kn,kn->n", weight, weight), kind="stable")
    return np.ascontiguousarray(weight[:, np.sort(order[(np.arange(columns) * 2 + 1) * count // (2 * columns)])])


def sketched(weight: _Float32, directions: int) -> _Float32:
    """Return a weight `(K, N)` seen from random directions, the same ones for each weight of this width.

    Squared norms of results are kept on average (Johnson and Lindenstrauss 1984; signs as in Achlioptas 2003,
    doi:10.1016/S0022-0000(03)00025-4). A weight with fewer columns than directions stays as it is.
    """
    columns = weight.shape[1]
    if columns <= directions:
        return weight
    return weight @ _directions(columns, directions)


@cache
def _directions(columns: int, directions: int) -> _Float32:
    signs = np.random.default_rng(columns).choice([-1.0, 1.0], (columns, directions)).astype(np.float32)
    return np.asarray(signs / np.float32(np.sqrt(directions)), dtype=np.float32)
