"""Numbers that stand for minus infinity: what a mask fills with, in the largest number of its type."""

from __future__ import annotations

import numpy as np

from mmtrt.tensors import Array

__all__ = ["as_infinities"]

_FILL, _LARGEST = 1e30, float(np.finfo(np.float32).max)
"""No result lies between these; `torch.finfo(torch.float32).min` is the end of it."""

_STANDS_FOR_IT = 1e4
"""A smaller type fills with less, and behind a softmax that is as good: see decision 0006."""


def as_infinities(reference: Array, candidate: Array) -> tuple[Array, Array]:
    """Return both arrays with the reference's fills as infinities, and the candidate's where it fills there too.

    Arrays of equal shape; the same ones where there is no fill.
    """
    if reference.dtype.kind != "f" or candidate.dtype.kind != "f":
        return reference, candidate
    with np.errstate(invalid="ignore"):
        filled = (np.abs(reference) >= _FILL) & (np.abs(reference) <= _LARGEST)
        if not filled.any():
            return reference, candidate
        also = filled & (np.abs(candidate) >= _STANDS_FOR_IT) & (np.sign(candidate) == np.sign(reference))
    endless = np.copysign(np.inf, reference)
    return np.where(filled, endless, reference), np.where(also, endless, candidate)
