"""Samples of equal shapes become batches; the sizes that samples have become ranges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmtrt.errors import SampleError
from mmtrt.samples.core import LABEL, Sample, with_prefix
from mmtrt.tensors import Array, ModelSpec

__all__ = ["Batch", "batches", "largest_batch", "shapes_profile"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Samples of equal shapes: `feeds` and `labels` stacked along axis 0, and where they stood in the set."""

    feeds: dict[str, Array]
    labels: dict[str, Array]
    indices: tuple[int, ...]


def batches(samples: Iterable[Sample], spec: ModelSpec, *, size: int = 16, held: int = 256) -> Iterator[Batch]:
    """Stack samples of equal shapes into batches of at most `size`, while at most `held` wait.

    Ragged samples are grouped by shape, never padded: padding would change what the model sees. The order
    is the same on each call. A model with a fixed batch axis gets batches of exactly that size, and none gets
    more than its range holds.
    """
    fixed = _fixed_batch(spec)
    size = fixed or min(size, largest_batch(spec, size))
    waiting: dict[tuple[Any, ...], list[tuple[int, Sample]]] = {}
    count = 0
    for index, sample in enumerate(samples):
        key = tuple((t.name, sample[t.name].shape) for t in spec.inputs)
        group = waiting.setdefault(key, [])
        group.append((index, sample))
        count += 1
        if len(group) == size:
            yield _stack(waiting.pop(key), spec)
            count -= size
        elif count >= held and not fixed:
            largest = max(waiting, key=lambda k: len(waiting[k]))
            count -= len(waiting[largest])
            yield _stack(waiting.pop(largest), spec)
    for group in waiting.values():
        if fixed and len(group) < fixed:
            raise SampleError(
                f"{len(group)} samples are left over for the model's fixed batch of {fixed}",
                fix=f"Give a multiple of {fixed} samples of each shape, or export with a dynamic batch.",
            )
        yield _stack(group, spec)


def largest_batch(spec: ModelSpec, size: int) -> int:
    """Return the largest batch up to `size` that a model's ranges hold: an engine takes no more than its profile."""
    firsts = [t.shape[0] for t in spec.inputs if t.shape]
    return min([size, *(spec.ranges[dim][2] for dim in firsts if isinstance(dim, str) and dim in spec.ranges)])


def _fixed_batch(spec: ModelSpec) -> int | None:
    firsts = [t.shape[0] for t in spec.inputs if t.shape]
    return next((dim for dim in firsts if isinstance(dim, int)), None)


def _stack(group: list[tuple[int, Sample]], spec: ModelSpec) -> Batch:
    feeds = {t.name: np.stack([sample[t.name] for _, sample in group]) for t in spec.inputs}
    return Batch(feeds=feeds, labels=_stack_labels(group), indices=tuple(i for i, _ in group))


def _stack_labels(group: list[tuple[int, Sample]]) -> dict[str, Array]:
    (first, sample), *rest = group
    labels = with_prefix(sample, LABEL)
    shapes = {name: np.shape(array) for name, array in labels.items()}
    for index, other in rest:
        if {name: np.shape(array) for name, array in with_prefix(other, LABEL).items()} != shapes:
            raise SampleError(
                f"samples {first} and {index} differ in the names or the shapes of their labels",
                fix="Give each sample of a set the same labels; -1 is a label that does not count.",
            )
    return {name: np.stack([np.asarray(s[LABEL + name]) for _, s in group]) for name in labels}


def shapes_profile(samples: Iterable[Sample], spec: ModelSpec, *, batch: int = 8) -> dict[str, tuple[int, int, int]]:
    """Ranges of the sizes that a model names, from its samples: for an ONNX that tells none.

    The usual size is the median. A first axis with a name is the batch: 1, 1, `batch`.
    """
    seen: dict[str, list[int]] = {}
    firsts: set[str] = set()
    for tensor in spec.inputs:
        if tensor.shape and isinstance(tensor.shape[0], str):
            firsts.add(tensor.shape[0])
    for sample in samples:
        for tensor in spec.inputs:
            for axis, dim in enumerate(tensor.shape[1:]):
                if isinstance(dim, str):
                    seen.setdefault(dim, []).append(sample[tensor.name].shape[axis])
    ranges = {dim: (min(n), sorted(n)[len(n) // 2], max(n)) for dim, n in seen.items()}
    return {**ranges, **dict.fromkeys(sorted(firsts), (1, 1, batch))}
