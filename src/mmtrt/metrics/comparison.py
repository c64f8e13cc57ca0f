"""How far one output is from another: accumulated over batches, memory constant."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmtrt.metrics.fills import as_infinities
from mmtrt.metrics.heads import UNKNOWN, guessed_kind, metrics_of
from mmtrt.metrics.histogram import Histogram
from mmtrt.metrics.rows import Rows
from mmtrt.metrics.variation import Variation
from mmtrt.tensors import Array

__all__ = ["METRICS", "Comparison"]

METRICS = (
    "sqnr_db",
    "cosine",
    "max_abs",
    "max_rel",
    "rel_l2",
    "error_p50",
    "error_p99",
    "error_p999",
    "explained_variance",
    "worst_explained_variance",
    "argmax_agreement",
    "value_agreement",
    "rank_correlation",
    "probability_distance",
    "box_iou",
    "non_finite",
)
"""Every metric, as JSON has them; what an output has not is None there."""

_AT_ONCE = 1 << 20
"""Elements compared at a time, whole samples: each takes some 60 bytes on the way."""

_LARGEST = float(np.finfo(np.float32).max)


class Comparison:
    """Compares a candidate's output with the reference's, batch by batch.

    `kind` is one of `metrics.heads.KINDS` and says which metrics mean something; without one, integers are told from
    floats, and of floats all is measured that could mean something. SQNR and relative errors are over all elements;
    elements that are not finite on either side are counted and left out of the sums, so that a few of them don't hide
    what the rest says: they fail by their count. What a mask filled with the largest number counts as infinite.
    """

    __slots__ = (
        "_candidate",
        "_dot",
        "_equal",
        "_errors",
        "_kind",
        "_noise",
        "_rows",
        "_signal",
        "_variation",
        "elements",
        "events",
        "max_abs",
        "non_finite",
        "reference_non_finite",
    )

    def __init__(self, kind: str = UNKNOWN) -> None:
        self.elements = self.events = self.non_finite = self.reference_non_finite = 0
        self.max_abs = 0.0
        self._kind = kind
        self._signal = self._candidate = self._noise = self._dot = 0.0
        self._equal = 0
        self._errors = Histogram()
        self._variation = Variation()
        self._rows: Rows | None = None

    @property
    def kind(self) -> str:
        """What the output was said to be, or what its dtype says; empty for floats of unknown meaning."""
        return self._kind

    @property
    def compared(self) -> int:
        """Elements that the reference has a finite value for."""
        return self.elements - self.reference_non_finite

    def add(self, reference: Array, candidate: Array) -> None:
        """Add a batch `(B, ...)`; ValueError where the shapes differ, or are not those of the kind."""
        if reference.shape != candidate.shape:
            raise ValueError(f"the shapes differ: {reference.shape} and {candidate.shape}")
        if self._rows is None:
            self._kind = self._kind or guessed_kind(reference)
            self._rows = Rows(self._kind, metrics_of(self._kind))
        ours, theirs = np.atleast_1d(reference), np.atleast_1d(candidate)
        step = max(1, _AT_ONCE * len(ours) // max(1, ours.size))
        for first in range(0, len(ours), step):
            part = slice(first, first + step)
            self._add_some(self._rows, *as_infinities(ours[part], theirs[part]))

    def _add_some(self, rows: Rows, ours: Array, theirs: Array) -> None:
        left, right = ours.astype(np.float64), theirs.astype(np.float64)
        rows.add(left, right)
        finite = np.isfinite(left)
        fine = finite & np.isfinite(right)
        self.elements += left.size
        self.events += len(left)
        # Not of what they became: from 2**53 on, integers that are apart are one float64.
        same = np.asarray(ours == theirs)
        if not fine.all():
            self.reference_non_finite += int((~finite).sum())
            # Where the reference itself is not finite, the candidate owes the same value, no more.
            same |= np.isnan(left) & np.isnan(right)
            self.non_finite += int((~fine & ~same).sum())
            # They are in none of the sums.
            left, right = np.where(fine, left, 0), np.where(fine, right, 0)
        self._equal += int(same.sum())
        if fine.any():
            error = left - right
            if ours.dtype.kind in "iu":
                error[~same & (error == 0)] = 1
            self._add(left, right, error, fine)

    def _add(self, left: Array, right: Array, error: Array, fine: NDArray[np.bool_]) -> None:
        """Add to the sums; what is not `fine` is 0 on both sides."""
        x, y = left.reshape(-1), right.reshape(-1)
        difference = np.abs(error if fine.all() else error[fine]).reshape(-1)
        largest = float(difference.max())
        self.max_abs = max(self.max_abs, largest)
        self._signal += float(x @ x)
        self._candidate += float(y @ y)
        self._noise += float(difference @ difference)
        self._dot += float(x @ y)
        # Beyond the range of float32 an error is as large as that can say; `max_abs` says it all.
        shown = np.minimum(difference, _LARGEST)[None]
        self._errors.add(shown, amax=min(largest, _LARGEST), each=shown.size)
        if "explained_variance" in metrics_of(self._kind):
            self._variation.add(left, error, fine)

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
    def max_rel(self) -> float:
        """Largest error relative to the output's RMS over all samples.

        Not to the element's own value: an element near zero would be off by any factor, and no answer would change.
        """
        rms = math.sqrt(self._signal / self.elements) if self.elements else 0.0
        if rms == 0:
            return 0.0 if self.max_abs == 0 else math.inf
        return self.max_abs / rms

    @property
    def argmax_agreement(self) -> float | None:
        """Share of rows (last axis) with the same largest element; None where rows have one element."""
        return self._of_rows("argmax_agreement")

    @property
    def value_agreement(self) -> float | None:
        """Share of elements that are equal; None but for integers."""
        return self._equal / self.elements if self.elements and "value_agreement" in metrics_of(self._kind) else None

    @property
    def explained_variance(self) -> float | None:
        """See `Variation`; None for integers, and where nothing varies from sample to sample."""
        return self._variation.explained

    def _of_rows(self, name: str) -> float | None:
        return self._rows.value(name) if self._rows is not None else None

    def measured(self) -> dict[str, float | None]:
        """Return all metrics by name, infinities as they are; None for what the output has not."""
        worst = self._variation.worst if "worst_explained_variance" in metrics_of(self._kind) else None
        found: dict[str, Any] = {
            "sqnr_db": self.sqnr_db,
            "cosine": self.cosine,
            "max_abs": self.max_abs,
            "max_rel": self.max_rel,
            "rel_l2": self.rel_l2,
            "error_p50": self._errors.quantile(0.5),
            "error_p99": self._errors.quantile(0.99),
            "error_p999": self._errors.quantile(0.999),
            "explained_variance": self.explained_variance,
            "worst_explained_variance": worst,
            "value_agreement": self.value_agreement,
            "non_finite": self.non_finite,
        }
        return {name: found.get(name, self._of_rows(name)) for name in METRICS}

    def values(self) -> dict[str, float | int | None]:
        """Return all metrics by name as JSON has them: it has no infinity, which is None as well."""
        return {name: v if v is not None and math.isfinite(v) else None for name, v in self.measured().items()}
