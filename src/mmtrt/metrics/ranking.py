"""How well outputs rank: classes of an event, events by a score, a gallery by similarity.

A tie never helps: what only equals its rivals has not been told from them. Nor does NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from mmtrt.metrics.task import IGNORED, Counted
from mmtrt.tensors import Array

__all__ = ["Auroc", "HitAt5", "RecallAt1"]

_CHUNK: Final = 512
"""Queries held against the whole gallery at a time: 5,000 in the gallery take 10 MB."""


class HitAt5(Counted):
    """Share of labels whose class is among the five largest logits: logits `(B, ..., C)`, labels `(B, ...)`."""

    k: ClassVar[int] = 5

    def add(self, logits: Array, labels: Array) -> None:
        """ValueError where there are no more than five classes, or shapes that don't fit."""
        if logits.shape[:-1] != labels.shape:
            raise ValueError(f"logits {logits.shape} and labels {labels.shape} don't belong together")
        if logits.shape[-1] <= self.k:
            raise ValueError(f"{logits.shape[-1]} classes are too few to be among the first {self.k}")
        counts = labels != IGNORED
        if not (~counts | ((labels >= 0) & (labels < logits.shape[-1]))).all():
            raise ValueError(f"a label is not one of the {logits.shape[-1]} classes")
        own = np.take_along_axis(logits, np.where(counts, labels, 0)[..., None].astype(np.int64), axis=-1)
        # The class itself is one of those that its own logit does not exceed.
        rivals = (~(own > logits)).sum(axis=-1) - 1
        self._count(counts & (rivals < self.k), counts)


@dataclass(slots=True)
class Auroc:
    """Area under the ROC curve: how often an event of class 1 scores above one of class 0, a tie being half.

    Logits `(B, ..., 2)`, scored by their difference, or `(B, ..., 1)`; labels `(B, ...)`, 0 or 1. Scores are kept,
    8 bytes an event.
    """

    events: int = 0
    _scores: list[NDArray[np.float64]] = field(default_factory=list)
    _labels: list[NDArray[np.bool_]] = field(default_factory=list)
    _of: list[NDArray[np.int64]] = field(default_factory=list)
    """Which event a score is of."""

    def add(self, logits: Array, labels: Array) -> None:
        """ValueError where there are more than two classes, or shapes that don't fit."""
        if logits.shape[:-1] != labels.shape or logits.shape[-1] > 2:
            raise ValueError(f"logits {logits.shape} and labels {labels.shape} are no two classes")
        if not np.isin(labels, (IGNORED, 0, 1)).all():
            raise ValueError("labels of two classes are 0, 1 or -1")
        wide = logits.astype(np.float64)
        score = wide[..., -1] - wide[..., 0] if logits.shape[-1] == 2 else wide[..., 0]
        counts = labels != IGNORED
        self._scores.append(score[counts])
        self._labels.append(labels[counts] == 1)
        self._of.append(self.events + np.nonzero(counts)[0])
        self.events += len(labels)

    def resampled(self, weights: NDArray[np.int64]) -> NDArray[np.float64]:
        """See `TaskMetric`; Mann and Whitney's U of the events as often as each is there."""
        scores, positive, of = (np.concatenate(parts) for parts in (self._scores, self._labels, self._of))
        if not scores.size or np.isnan(scores).any():
            return np.full(len(weights), math.nan)
        order = scores.argsort(kind="stable")
        ascending = scores[order]
        firsts = np.flatnonzero(np.append(True, ascending[1:] != ascending[:-1]))
        found = np.full(len(weights), math.nan)
        for index, row in enumerate(weights):
            times = row[of[order]]
            # Of each group of equal scores: how many of class 1, and of class 0.
            ones = np.add.reduceat(times * positive[order], firsts)
            zeros = np.add.reduceat(times * (1 - positive[order]), firsts)
            if ones.any() and zeros.any():
                below = np.cumsum(zeros) - zeros / 2
                found[index] = (ones @ below) / (ones.sum() * zeros.sum())
        return found

    @property
    def value(self) -> float:
        """NaN where one of the classes is missing, and where a score is NaN."""
        return float(self.resampled(np.ones((1, self.events), dtype=np.int64))[0]) if self._scores else math.nan


@dataclass(slots=True)
class RecallAt1:
    """Share of queries whose nearest in the other modality is what they belong to, over the whole set.

    Embeddings `(B, 2, D)`, of two modalities, compared by dot product; labels `(B, 2)`, the identity of what each is
    of: equal numbers belong together, -1 takes an embedding out. Both directions count, and a query of which the
    other modality has nothing is none. The embeddings are kept.
    """

    _embeddings: list[Array] = field(default_factory=list)
    _labels: list[Array] = field(default_factory=list)

    def add(self, embeddings: Array, labels: Array) -> None:
        """ValueError where these are no pairs of embeddings with a pair of labels each."""
        if embeddings.ndim != 3 or embeddings.shape[1] != 2 or labels.shape != embeddings.shape[:2]:
            raise ValueError(f"embeddings {embeddings.shape} and labels {labels.shape} are not (B, 2, D) and (B, 2)")
        self._embeddings.append(embeddings)
        self._labels.append(labels)

    @property
    def events(self) -> int:
        """Events added."""
        return sum(map(len, self._labels))

    @property
    def value(self) -> float:
        """Over the queries of both directions together."""
        return float(self.resampled(np.ones((1, self.events), dtype=np.int64))[0]) if self._labels else math.nan

    def resampled(self, weights: NDArray[np.int64]) -> NDArray[np.float64]:
        """See `TaskMetric`; the queries are drawn, the gallery stays as it is."""
        embeddings, labels = np.concatenate(self._embeddings), np.concatenate(self._labels)
        counts = labels != IGNORED
        sides = [(embeddings[counts[:, i], i], labels[counts[:, i], i]) for i in (0, 1)]
        hits, of = np.zeros(len(weights)), np.zeros(len(weights))
        for side, (ours, theirs) in enumerate((sides, sides[::-1])):
            hit, there = _found(*ours, *theirs)
            times = weights[:, counts[:, side]]
            hits += times @ hit
            of += times @ there
        return np.where(of > 0, hits / np.maximum(of, 1), math.nan)


def _found(queries: Array, wanted: Array, gallery: Array, owned: Array) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which queries are nearest to what they belong to, and which have something in the gallery at all, `(Q,)`."""
    hits, there = np.zeros(len(wanted), dtype=np.bool_), np.zeros(len(wanted), dtype=np.bool_)
    for start in range(0, len(wanted), _CHUNK):
        near = queries[start : start + _CHUNK].astype(np.float32) @ gallery.astype(np.float32).T
        own = wanted[start : start + _CHUNK, None] == owned[None, :]
        best = np.where(own, near, -np.inf).max(axis=1, initial=-np.inf)
        rival = np.where(own, -np.inf, near).max(axis=1, initial=-np.inf)
        there[start : start + _CHUNK] = own.any(axis=1)
        hits[start : start + _CHUNK] = own.any(axis=1) & (best > rival)
    return hits, there
