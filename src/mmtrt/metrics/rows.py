"""What the rows of an output say, over its last axis: the largest, the order, the probabilities; batch by batch."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mmtrt.metrics.boxes import box_overlaps
from mmtrt.metrics.histogram import even_stride
from mmtrt.tensors import Array

__all__ = ["Rows", "rank_correlations", "variation_distances"]

_ROWS: Final = 256
_ELEMENTS: Final = 1 << 16
"""About so many rows and elements of a sample, evenly spread, are ordered and turned into probabilities: a map has
thousands of rows, a row over a vocabulary tens of thousands of elements."""

_ORDERED: Final = 3
"""Of two there is no order beyond which is larger, and that is `argmax_agreement`."""


class Rows:
    """Means over rows, for the metrics that are wanted of `metrics.heads.KINDS[kind]`.

    `argmax_agreement`: share of rows `(..., C)`, C > 1, with the same largest element. `rank_correlation`: Spearman's,
    rows of three or more; a row in which the reference is constant is none. `probability_distance`: total variation
    distance between the softmaxes, for a single logit and for `multilabel` between the sigmoids. `box_iou`: of the four
    numbers of a box. Rows that are not finite on a side are left out of the last three, but for -inf on both.
    """

    __slots__ = ("_counts", "_kind", "_sums", "_wanted")

    def __init__(self, kind: str, wanted: Collection[str]) -> None:
        self._kind = kind
        self._wanted = wanted
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def value(self, name: str) -> float | None:
        """Return a mean; None where there was no row for it."""
        return self._sums[name] / self._counts[name] if self._counts.get(name) else None

    def add(self, reference: NDArray[np.float64], candidate: NDArray[np.float64]) -> None:
        """Add a batch `(B, ...)`; ValueError where boxes have not four numbers."""
        if not reference.size:
            return
        # The one axis of a vector is the batch, not classes.
        width = reference.shape[-1] if reference.ndim > 1 else 1
        if "argmax_agreement" in self._wanted and width > 1:
            self._count("argmax_agreement", reference.argmax(axis=-1) == candidate.argmax(axis=-1))
        if "box_iou" in self._wanted and width != 4:
            raise ValueError(f"boxes are four numbers over the last axis, and the shape is {reference.shape}")
        left, right = _spread(reference, candidate, width)
        if "rank_correlation" in self._wanted and width >= _ORDERED:
            self._count("rank_correlation", rank_correlations(left, right))
        if "probability_distance" in self._wanted:
            self._count("probability_distance", variation_distances(left, right, single=self._kind == "multilabel"))
        if "box_iou" in self._wanted:
            self._count("box_iou", box_overlaps(left, right, self._kind.partition("-")[2]))

    def _count(self, name: str, values: Array) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + float(values.sum())
        self._counts[name] = self._counts.get(name, 0) + values.size


def _spread(reference: Array, candidate: Array, width: int) -> tuple[Array, Array]:
    """Rows `(N, C)` of both, evenly spread over each sample, those that can be read on both sides."""
    parts = [array.reshape(len(array), -1, width) for array in (reference, candidate)]
    stride = even_stride(parts[0].shape[1], max(1, min(_ROWS, _ELEMENTS // width)))
    left, right = (part[:, ::stride].reshape(-1, width) for part in parts)
    hidden = np.isneginf(left) & np.isneginf(right)
    fine = ((np.isfinite(left) & np.isfinite(right)) | hidden).all(axis=1) & ~hidden.all(axis=1)
    return left[fine], right[fine]


def rank_correlations(left: Array, right: Array) -> NDArray[np.float64]:
    """Spearman's rank correlation of rows `(N, C)`, equal values sharing their mean rank, `(M,)`.

    A row in which the left side is constant has no order and is left out; where the right side alone is constant
    it is 0.
    """
    ranks = [_ranks(side) - (left.shape[1] - 1) / 2 for side in (left, right)]
    norms = [np.sqrt((side**2).sum(axis=1)) for side in ranks]
    ordered = norms[0] > 0
    dot = (ranks[0] * ranks[1]).sum(axis=1)[ordered]
    norm = (norms[0] * norms[1])[ordered]
    return np.asarray(np.where(norm > 0, dot / np.where(norm > 0, norm, 1), 0.0))


def _ranks(rows: Array) -> NDArray[np.float64]:
    """Ranks from 0 in each row `(N, C)`; equal values share the mean of the ranks that they take up."""
    order = rows.argsort(axis=1, kind="stable")
    ascending = np.take_along_axis(rows, order, axis=1)
    places = np.arange(rows.shape[1])
    new = np.ones(rows.shape, dtype=bool)
    new[:, 1:] = ascending[:, 1:] != ascending[:, :-1]
    last = np.ones(rows.shape, dtype=bool)
    last[:, :-1] = new[:, 1:]
    first_of = np.maximum.accumulate(np.where(new, places, 0), axis=1)
    last_of = np.minimum.accumulate(np.where(last, places, rows.shape[1])[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty(rows.shape)
    np.put_along_axis(ranks, order, (first_of + last_of) / 2, axis=1)
    return ranks


def variation_distances(left: Array, right: Array, *, single: bool = False) -> NDArray[np.float64]:
    """Total variation distance, 0 to 1, between the softmaxes of rows of logits `(N, C)`, `(N,)`.

    Rows of one logit, and with `single` each logit by itself, `(N * C,)`, say yes with the probability of the sigmoid.
    """
    if single or left.shape[1] == 1:
        return np.asarray(np.abs(_sigmoid(left) - _sigmoid(right)).reshape(-1))
    return np.asarray(np.abs(_softmax(left) - _softmax(right)).sum(axis=1) / 2)


def _sigmoid(logits: Array) -> Array:
    return np.asarray((1 + np.tanh(logits / 2)) / 2)


def _softmax(logits: Array) -> Array:
    # A row of nothing but -inf on one side would be NaN: it says that nothing is likely.
    top = logits.max(axis=1, keepdims=True, initial=np.finfo(np.float64).min)
    powers = np.exp(logits - top)
    return np.asarray(powers / np.maximum(powers.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny))
