"""How right a head's classes are against labels: counts, event by event."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mmtrt.tensors import Array

__all__ = ["F1", "IGNORED", "Accuracy", "Counted", "ExactPhrase", "TaskMetric"]

IGNORED = -1
"""A label that does not count."""


class TaskMetric(Protocol):
    """How right an output is against its labels, over all batches added; labels of -1 don't count."""

    def add(self, outputs: Array, labels: Array, /) -> None:
        """Add a batch; ValueError where outputs and labels don't belong together."""

    @property
    def value(self) -> float:
        """The metric, in 0 to 1; NaN where no label counted."""

    @property
    def events(self) -> int:
        """Events added: the length of the batch axis, over all batches."""

    def resampled(self, weights: NDArray[np.int64], /) -> NDArray[np.float64]:
        """Return the metric as if each event had been there so often, `(R,)` of `(R, events)`."""


class Counted:
    """A metric that is a function of counts, which add up over events; it keeps them, a few bytes an event."""

    def __init__(self) -> None:
        self._counts: list[NDArray[np.int64]] = []

    def _count(self, *counts: Array) -> None:
        """Add a batch: columns `(B, ...)` of what is counted, booleans or integers."""
        rows = [column.sum(axis=tuple(range(1, column.ndim)), dtype=np.int64) for column in counts]
        self._counts.append(np.stack(rows, axis=1))

    def _of_counts(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """The metric of counts `(R, K)`, `(R,)`: a share, the first of the second."""
        return _quotient(counts[:, 0], counts[:, 1])

    @property
    def value(self) -> float:
        """The metric over all events; NaN where nothing counted."""
        if not self._counts:
            return math.nan
        return float(self._of_counts(np.concatenate(self._counts).sum(axis=0)[None])[0])

    @property
    def events(self) -> int:
        """Events added."""
        return sum(map(len, self._counts))

    def resampled(self, weights: NDArray[np.int64]) -> NDArray[np.float64]:
        """See `TaskMetric`."""
        return self._of_counts(weights @ np.concatenate(self._counts))


def _quotient(count: NDArray[np.int64], of: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.where(of > 0, count / np.maximum(of, 1), math.nan)


class Accuracy(Counted):
    """Share of labels whose class has the largest logit: logits `(B, ..., C)`, labels `(B, ...)`."""

    def add(self, logits: Array, labels: Array) -> None:
        """A single logit is class 1 above 0, else class 0."""
        said, counts = _said(logits, labels), labels != IGNORED
        self._count(counts & (said == labels), counts)


class ExactPhrase(Counted):
    """Share of rows that are right at each position that counts: logits `(B, ..., C)`, labels `(B, ...)`."""

    def add(self, logits: Array, labels: Array) -> None:
        """A row without a label is none; a single logit is class 1 above 0."""
        said, counts = _said(logits, labels), labels != IGNORED
        positions = tuple(range(1, labels.ndim))
        right, asked = ((said == labels) | ~counts).all(axis=positions), counts.any(axis=positions)
        self._count(right & asked, asked)


class F1(Counted):
    """F1 of class 1: logits `(B, ..., C)`, labels `(B, ...)`; NaN, too, where class 1 was neither said nor there."""

    def add(self, logits: Array, labels: Array) -> None:
        """A single logit is class 1 above 0, else class 0."""
        said, counts = _said(logits, labels) == 1, labels != IGNORED
        # Twice the hits, of these and of what is false or missed.
        hits = counts & said & (labels == 1)
        wrong = counts & (said != (labels == 1))
        self._count(hits * 2, hits * 2 + wrong)


def _said(logits: Array, labels: Array) -> Array:
    """Classes of logits, in the labels' shape."""
    if logits.shape[:-1] != labels.shape:
        raise ValueError(f"logits {logits.shape} and labels {labels.shape} don't belong together")
    said: Array = np.where(logits[..., 0] > 0, 1, 0) if logits.shape[-1] == 1 else logits.argmax(axis=-1)
    return said
