"""Events run together where their shapes allow it, and come out in the order in which they went in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np

from mmtrt.samples import Sample
from mmtrt.tensors import Array, ModelSpec

__all__ = ["in_order", "most_rows", "stacked"]

_Result = TypeVar("_Result")
_ROWS = 16
_WINDOW = 64
"""Events that wait for others of their shapes: what they give is in memory meanwhile."""


def stacked(samples: Sequence[Sample], names: Iterable[str]) -> dict[str, Array]:
    """Return these inputs of samples of equal shapes, with a batch axis."""
    return {name: np.stack([sample[name] for sample in samples]) for name in names}


def most_rows(spec: ModelSpec) -> int:
    """Return how many events may run together: what the batch's range allows, one where the batch is fixed."""
    firsts = {tensor.shape[0] for tensor in spec.inputs if tensor.shape}
    if any(isinstance(first, int) for first in firsts):
        return 1
    return min([_ROWS, *(spec.ranges[str(first)][2] for first in firsts if first in spec.ranges)])


def in_order(
    samples: Iterable[Sample],
    names: Sequence[str],
    rows: int,
    run: Callable[[Sequence[Sample]], Sequence[_Result]],
) -> Iterator[tuple[Sample, _Result]]:
    """Run samples whose inputs `names` have equal shapes together, at most `rows`; yield each with its result."""
    source = iter(samples)
    while window := list(islice(source, _WINDOW)):
        groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for index, sample in enumerate(window):
            groups.setdefault(tuple(np.shape(sample[name]) for name in names), []).append(index)
        found: dict[int, _Result] = {}
        for group in groups.values():
            for start in range(0, len(group), rows):
                part = group[start : start + rows]
                found.update(zip(part, run([window[index] for index in part]), strict=True))
        for index, sample in enumerate(window):
            yield sample, found[index]
