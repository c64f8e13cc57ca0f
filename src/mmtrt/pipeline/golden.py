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

    Of each size the largest, the smallest and the one nearest the usual come first, then the others as they come: an
    engine that is wrong at an end of its profile is to be seen.
    """
    rows = range(len(sizes))
    picked: dict[int, None] = {}
    for name in sizes[0] if sizes else ():
        usual = spec.ranges[name][1] if name in spec.ranges else sizes[0][name]
        picked[max(rows, key=lambda row: sizes[row][name])] = None
        picked[min(rows, key=lambda row: sizes[row][name])] = None
        picked[min(rows, key=lambda row: abs(sizes[row][name] - usual))] = None
    picked |= dict.fromkeys(rows)
    return sorted([*picked][:count])
