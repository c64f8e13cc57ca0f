"""Whether a set shows what the model will meet: short and long sequences, and events that lack a modality."""

from __future__ import annotations

import numpy as np

from mmtrt.samples.core import Sample
from mmtrt.tensors import ModelSpec

__all__ = ["Variety"]

_END = 0.25
"""A size is short or long where it lies in the lowest or highest quarter of its range."""


class Variety:
    """Sees samples, and tells what they lack."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._sizes: dict[str, tuple[int, int]] = {}
        self._lacked: set[str] = set()
        self._seen = 0

    def see(self, sample: Sample) -> None:
        """Take in a sample, without the batch axis."""
        self._seen += 1
        for tensor in self._spec.inputs:
            array = sample[tensor.name]
            for dim, size in zip(tensor.shape[1:], array.shape, strict=True):
                if isinstance(dim, str):
                    low, high = self._sizes.get(dim, (size, size))
                    self._sizes[dim] = (min(low, size), max(high, size))
        for modality, names in self._spec.modalities.items():
            if modality not in self._lacked and names and not any(np.any(sample[name]) for name in names):
                self._lacked.add(modality)

    def notes(self) -> list[str]:
        """Return what is lacking, a sentence each; nothing where nothing was seen."""
        found = [text for dim in self._sizes for text in self._ends(dim)]
        whole = [name for name in self._spec.modalities if name not in self._lacked]
        if self._seen and len(self._spec.modalities) > 1 and whole:
            # Zeros are what a missing modality is usually given as.
            found.append(f"no sample lacks {' or '.join(whole)} (all zeros): ranges are those of complete events")
        return found

    def _ends(self, dim: str) -> list[str]:
        if dim not in self._spec.ranges:
            return []
        lowest, _, highest = self._spec.ranges[dim]
        low, high = self._sizes[dim]
        span = highest - lowest
        told = []
        if low > lowest + _END * span:
            told.append(f"no sample is short: {dim!r} starts at {low}, the model takes {lowest} to {highest}")
        if high < highest - _END * span:
            told.append(f"no sample is long: {dim!r} ends at {high}, the model takes {lowest} to {highest}")
        return told
