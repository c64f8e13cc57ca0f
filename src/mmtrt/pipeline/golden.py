"""Which golden samples a bundle carries: few, and of the shapes that matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmtrt.tensors import ModelSpec

__all__ = ["pick_golden", "sizes_of"]


def sizes_of(shapes: Mapping[str, Sequence[int]], spec: ModelSpec) -> dict[str, int]:
    """Return the named sizes of one sample, without the batch axis."""
    return {
        dim: size
        for tensor in spec.inputs
        for dim, size in zip(tensor.shape[1:], shapes[tensor.name], strict=True)
        if isinstance(dim, str)
    }


def pick_golden(sizes: Sequence[Mapping[str, int]], spec: ModelSpec, count: int) -> list[int]:
    """Return the indices of at most `count` samples, in their order.

    The one nearest the usual in all sizes, and of each size the largest and the smallest come first, then the others
    as they come: an engine that is wrong at an end of its profile is to be seen, and one of a static profile takes
    the usual shape alone.
    """
    rows = range(len(sizes))
    picked: dict[int, None] = {}
    if sizes:
        picked[min(rows, key=lambda row: _distance(sizes[row], spec))] = None
    for name in sizes[0] if sizes else ():
        picked[max(rows, key=lambda row: sizes[row][name])] = None
        picked[min(rows, key=lambda row: sizes[row][name])] = None
    picked |= dict.fromkeys(rows)
    return sorted([*picked][:count])


def _distance(sizes: Mapping[str, int], spec: ModelSpec) -> float:
    """How far a sample is from the usual sizes, each as a share of it."""
    usual = {name: span[1] for name, span in spec.ranges.items()}
    return sum(abs(size - usual[name]) / usual[name] for name, size in sizes.items() if name in usual)
