"""What rounding does to the results of a layer, estimated from rows of its input and from few directions."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from mmtrt.precision.scales import LEVELS, int8_scale

__all__ = ["beyond", "chance", "enough", "held_out", "picked", "power", "rounding_error", "sketched"]

_Float32 = npt.NDArray[np.float32]
_JUDGING = 256
_LEAST_JUDGING = 64
_JUDGED_ELEMENTS = 1 << 17
_STRETCH = 0.5
_FEW = 256


def held_out(rows: int, block: int, one_in: int = 4) -> npt.NDArray[np.bool_]:
    """Return which of the rows judge, `(R,)`: one block in so many, as rows of one sample are too alike to part."""
    held: npt.NDArray[np.bool_] = np.arange(rows) // block % one_in == 0
    return held


def enough(width: int) -> int:
    """Return how many rows of so many elements judge: a long row's errors average out by themselves."""
    return max(_LEAST_JUDGING, min(_JUDGING, _JUDGED_ELEMENTS // width))


def beyond(rows: _Float32, seen: int, reach: _Float32 | float = 1.0) -> _Float32:
    """Return one row more than was seen, `(1, K)`: the one that goes farthest, stretched.

    A range that is judged by seen rows alone fits them too closely. Of n rows and a new one, the new one goes beyond
    all others once in n + 1 times (Laplace's rule of succession): that is its weight, see `chance`. How far beyond is
    a guess: half as far again where a set has one row a sample, as behind pooling, and less the more rows were `seen`.
    `reach` is what is far for each of K elements.
    """
    far = np.abs(rows / np.maximum(reach, np.float32(1e-30))).max(axis=1)
    stretch = 1 + _STRETCH * min(1.0, (_FEW / max(seen, len(rows))) ** 0.5)
    return rows[int(np.argmax(far))][None] * np.float32(stretch)


def chance(judging: int, seen: int) -> float:
    """Return the weight of a row beyond all those seen, beside so many that judge."""
    return judging / (max(seen, judging) + 1)


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


def picked(weight: _Float32, columns: int) -> npt.NDArray[np.intp]:
    """Return which columns of a weight `(K, N)` judge, at most so many: evenly over all sizes from small to large."""
    count = weight.shape[1]
    if count <= columns:
        return np.arange(count)
    order = np.argsort(np.einsum("kn,kn->n", weight, weight), kind="stable")
    return np.sort(order[(np.arange(columns) * 2 + 1) * count // (2 * columns)])


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
