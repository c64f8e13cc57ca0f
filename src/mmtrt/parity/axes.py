"""The sizes that a model's inputs name: how far each goes, which of them move together, and the corners of all."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mmtrt.samples import Sample, shapes_profile
from mmtrt.tensors import ModelSpec

__all__ = ["Axes", "Axis", "axes_of"]

_MOST = 4
"""So many sizes have 16 corners; five would have 32."""

_UNTOLD_BATCH = (1, 4, 8)
"""Of a batch whose range nobody told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Sizes that move together, by name, and their smallest, usual and largest value."""

    names: tuple[str, ...]
    lowest: int
    usual: int
    highest: int

    @property
    def name(self) -> str:
        """What the axis is called: the first of its names."""
        return self.names[0]

    @property
    def moves(self) -> bool:
        """Whether there is more than one value."""
        return self.lowest < self.highest

    def at(self, size: int) -> dict[str, int]:
        """Return the names with this value."""
        return dict.fromkeys(self.names, size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """The axes of a model: the batch, None where no input names it, and the others."""

    batch: Axis | None
    others: tuple[Axis, ...]

    @property
    def every(self) -> tuple[Axis, ...]:
        """The batch first, then the others."""
        return (self.batch, *self.others) if self.batch else self.others

    def usual(self, *, rows: int | None = None) -> dict[str, int]:
        """Return all sizes at their usual values, with a batch of `rows` as near as its range allows."""
        sizes = {name: size for axis in self.every for name, size in axis.at(axis.usual).items()}
        if self.batch and rows is not None:
            sizes |= self.batch.at(min(max(rows, self.batch.lowest), self.batch.highest))
        return sizes

    @property
    def corner_note(self) -> str:
        """Say what of too many corners is left; nothing where all are there."""
        moving = sum(axis.moves for axis in self.every)
        if moving <= _MOST:
            return ""
        return f"{moving} sizes have {2**moving} corners: all smallest, all largest, and each size alone at its ends"

    def corners(self) -> Iterator[dict[str, int]]:
        """Yield the sizes of each corner, the smallest first; of many sizes those that `corner_note` says."""
        moving = [axis for axis in self.every if axis.moves]
        ends = list(itertools.product(*((axis.lowest, axis.highest) for axis in moving)))
        if len(moving) > _MOST:
            usual = tuple(axis.usual for axis in moving)
            alone = [
                (*usual[:index], end, *usual[index + 1 :])
                for index, axis in enumerate(moving)
                for end in (axis.lowest, axis.highest)
            ]
            # A usual size may be an end itself.
            ends = list(dict.fromkeys([ends[0], ends[-1], *alone]))
        for sizes in ends:
            at = [axis.at(size) for axis, size in zip(moving, sizes, strict=True)]
            yield {**self.usual(), **{name: size for one in at for name, size in one.items()}}


def axes_of(spec: ModelSpec, samples: Sequence[Sample]) -> Axes:
    """Return the axes that the inputs name, in their order; a range that the spec lacks is that of the samples' sizes.

    The first axes of all inputs are one batch, whatever their names: its range is what all of them allow.
    """
    firsts = {str(t.shape[0]): None for t in spec.inputs if t.shape and isinstance(t.shape[0], str)}
    rest = {dim: None for t in spec.inputs for dim in t.shape if isinstance(dim, str) and dim not in firsts}
    untold = any(name not in spec.ranges for name in rest)
    shown = shapes_profile(samples, spec) if untold else {}
    spans = {**shown, **dict.fromkeys(firsts, _UNTOLD_BATCH), **spec.ranges}
    others = [_axis((name,), spans) for name in rest]
    return Axes(batch=_axis(tuple(firsts), spans) if firsts else None, others=tuple(others))


def _axis(names: tuple[str, ...], spans: Mapping[str, tuple[int, int, int]]) -> Axis:
    lowest = max(spans[name][0] for name in names)
    highest = max(lowest, min(spans[name][2] for name in names))
    usual = min(max(spans[names[0]][1], lowest), highest)
    return Axis(names=names, lowest=lowest, usual=usual, highest=highest)
