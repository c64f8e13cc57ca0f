"""How far one output is from another, and how right a head is: accumulated over batches, memory constant."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from mmtrt.tensors import Array

__all__ = ["TASK_METRICS", "Comparison", "TaskMetric", "make_task_metric"]

IGNORED = -1
"""A label that does not count."""


@dataclass(slots=True)
class Comparison:
    """Compares a candidate's output with the reference's, batch by batch.

    SQNR and relative error are over all elements; elements that are not finite on either side are counted and
    left out of the sums, so that a few of them don't hide what the rest says: they fail by their count.
    """

    elements: int = 0
    non_finite: int = 0
    reference_non_finite: int = 0
    max_abs: float = 0.0
    _signal: float = 0.0
    _candidate: float = 0.0
    _noise: float = 0.0
    _dot: float = 0.0
    _agreed: int = 0
    _rows: int = 0

    def add(self, reference: Array, candidate: Array) -> None:
        """Add a batch; ValueError where the shapes differ."""
        if reference.shape != candidate.shape:
            raise ValueError(f"the shapes differ: {reference.shape} and {candidate.shape}")
        left, right = reference.astype(np.float64), candidate.astype(np.float64)
        fine = np.isfinite(left) & np.isfinite(right)
        self.elements += left.size
        self.reference_non_finite += int((~np.isfinite(left)).sum())
        # Where the reference itself is not finite, the candidate owes the same value, no more.
        same = (left == right) | (np.isnan(left) & np.isnan(right))
        self.non_finite += int((~fine & ~same).sum())
        x, y = left[fine], right[fine]
        if x.size:
            difference = x - y
            self.max_abs = max(self.max_abs, float(np.abs(difference).max()))
            self._signal += float(x @ x)
            self._candidate += float(y @ y)
            self._noise += float(difference @ difference)
            self._dot += float(x @ y)
        # The one axis of a vector is the batch, not classes.
        if left.ndim > 1 and left.shape[-1] > 1 and left.size:
            agreed = left.argmax(axis=-1) == right.argmax(axis=-1)
            self._agreed += int(agreed.sum())
            self._rows += agreed.size

    @property
    def sqnr_db(self) -> float:
        """Signal to noise ratio in dB; infinite where there is no noise."""
        if self._noise == 0:
            return math.inf
        # A quotient could underflow to a zero that has no logarithm.
        return 10 * (math.log10(self._signal) - math.log10(self._noise)) if self._signal else -math.inf

    @property
    def cosine(self) -> float:
        """Cosine similarity over all elements; 1 where both are zero."""
        if self._noise == 0:
            return 1.0
        norm = math.sqrt(self._signal) * math.sqrt(self._candidate)
        # In this order a NaN stays one: max and min keep their first argument where a comparison is false.
        return max(min(self._dot / norm, 1.0), -1.0) if norm else 0.0

    @property
    def rel_l2(self) -> float:
        """Norm of the error relative to the reference's norm."""
        if self._signal == 0:
            return 0.0 if self._noise == 0 else math.inf
        return math.sqrt(self._noise / self._signal)

    @property
    def argmax_agreement(self) -> float | None:
        """Share of rows (last axis) with the same largest element; None where rows have one element."""
        return self._agreed / self._rows if self._rows else None

    def values(self) -> dict[str, float | int | None]:
        """Return all metrics by name; an infinite one is None, since JSON has no infinity."""

        def plain(value: float) -> float | None:
            return value if math.isfinite(value) else None

        return {
            "sqnr_db": plain(self.sqnr_db),
            "cosine": plain(self.cosine),
            "max_abs": plain(self.max_abs),
            "rel_l2": plain(self.rel_l2),
            "argmax_agreement": self.argmax_agreement,
            "non_finite": self.non_finite,
        }


@dataclass(slots=True, kw_only=True)
class TaskMetric:
    """How right a head's logits are against labels; labels of -1 don't count."""

    name: str
    _count: Callable[[Array, Array, dict[str, int]], None] = field(repr=False)
    _finish: Callable[[Mapping[str, int]], float] = field(repr=False)
    _state: dict[str, int] = field(default_factory=dict)

    def add(self, logits: Array, labels: Array) -> None:
        """Add a batch: logits `(B, ..., C)` and labels `(B, ...)`; a single logit is class 1 above 0, else class 0."""
        if logits.shape[:-1] != labels.shape:
            raise ValueError(f"logits {logits.shape} and labels {labels.shape} don't belong together")
        told = logits[..., 0] > 0 if logits.shape[-1] == 1 else logits.argmax(axis=-1)
        self._count(told, labels, self._state)

    @property
    def value(self) -> float:
        """The metric, in 0 to 1; NaN where no label counted."""
        return self._finish(self._state)


def _bump(state: dict[str, int], key: str, value: object) -> None:
    state[key] = state.get(key, 0) + int(value)  # type: ignore[call-overload]


def _share(state: Mapping[str, int]) -> float:
    return state.get("right", 0) / state["of"] if state.get("of") else math.nan


def _count_each(told: Array, labels: Array, state: dict[str, int]) -> None:
    counts = labels != IGNORED
    _bump(state, "right", (counts & (told == labels)).sum())
    _bump(state, "of", counts.sum())


def _count_phrases(told: Array, labels: Array, state: dict[str, int]) -> None:
    counts = labels != IGNORED
    right = ((told == labels) | ~counts).reshape(len(labels), -1).all(axis=1)
    asked = counts.reshape(len(labels), -1).any(axis=1)
    _bump(state, "right", (right & asked).sum())
    _bump(state, "of", asked.sum())


def _count_binary(told: Array, labels: Array, state: dict[str, int]) -> None:
    counts = labels != IGNORED
    _bump(state, "hit", (counts & (told == 1) & (labels == 1)).sum())
    _bump(state, "false", (counts & (told == 1) & (labels != 1)).sum())
    _bump(state, "missed", (counts & (told != 1) & (labels == 1)).sum())


def _f1(state: Mapping[str, int]) -> float:
    total = 2 * state.get("hit", 0) + state.get("false", 0) + state.get("missed", 0)
    return 2 * state.get("hit", 0) / total if total else math.nan


TASK_METRICS: Mapping[
    str, tuple[Callable[[Array, Array, dict[str, int]], None], Callable[[Mapping[str, int]], float]]
] = {
    "accuracy": (_count_each, _share),
    "f1": (_count_binary, _f1),
    "exact_phrase": (_count_phrases, _share),
}
"""Accuracy of classes; F1 of class 1; share of sequences that are right at each position that counts."""


def make_task_metric(name: str) -> TaskMetric:
    """Return a fresh metric; an unknown name is a KeyError."""
    count, finish = TASK_METRICS[name]
    return TaskMetric(name=name, _count=count, _finish=finish)
