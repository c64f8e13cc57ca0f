"""How far a candidate's tensor is from the reference's, in sums that add up over feeds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mmtrt.tensors import Array

__all__ = ["Distance", "as_held", "as_told"]

_HIDES = 65504.0
"""A mask beyond what FP16 holds is another number there, and hides as well."""
_HIDDEN = 1000.0


@dataclass(slots=True)
class Distance:
    """Signal and noise power of a tensor over some feeds; `broken` counts what is finite in the reference only."""

    signal: float = 0.0
    noise: float = 0.0
    broken: int = 0

    def add(self, reference: Array, candidate: Array) -> None:
        """Add two arrays of equal shapes; what both mask is equal, whatever number masks it."""
        left, right = reference.astype(np.float64), candidate.astype(np.float64)
        alike = (left == right) | (np.isnan(left) & np.isnan(right)) | _hidden(left, right)
        finite = np.isfinite(left) & np.isfinite(right)
        self.broken += int((np.isfinite(left) & ~np.isfinite(right) & ~alike).sum())
        told = np.where(finite & ~_hidden(left, right), left, 0.0).reshape(-1)
        apart = np.where(finite & ~alike, left - np.where(finite, right, 0.0), 0.0).reshape(-1)
        with np.errstate(over="ignore"):
            self.signal += float(told @ told)
            self.noise += float(apart @ apart)

    @property
    def sqnr_db(self) -> float:
        """Signal to noise ratio in dB: infinite where there is no noise, minus infinity where values are broken."""
        if self.broken:
            return -math.inf
        if self.noise == 0:
            return math.inf
        return 10 * (math.log10(self.signal) - math.log10(self.noise)) if self.signal else -math.inf


def as_held(reference: Array, candidate: Array) -> Array:
    """Return the reference's values as the candidate holds such: in its type, and masked by its own number."""
    if candidate.dtype == reference.dtype and candidate.dtype.kind != "f":
        return reference
    held = reference
    if candidate.dtype.kind == "f" and reference.dtype.kind == "f":
        largest = float(np.finfo(candidate.dtype).max)
        held = np.where(np.isfinite(reference), np.clip(reference, -largest, largest), reference)
        held = np.where(_hidden(reference, candidate), candidate, held)
    return held.astype(candidate.dtype)


def as_told(reference: Array, candidate: Array) -> Array:
    """Return the candidate's values in the reference's type, masked by the reference's number."""
    if reference.dtype.kind != "f":
        return candidate.astype(reference.dtype)
    with np.errstate(over="ignore"):
        return np.where(_hidden(reference, candidate), reference, candidate).astype(reference.dtype)


def _hidden(reference: Array, candidate: Array) -> Array:
    found: Array = (reference <= -_HIDES) & (candidate <= -_HIDDEN)
    return found
