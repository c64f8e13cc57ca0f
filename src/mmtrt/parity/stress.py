"""Hard cases that a set of samples does not hold: ends of the shapes, modalities that are missing or odd.

Each has a kind and a name, so that a budget and a person can speak of it. They are made from a few samples of the set,
one at a time, the same ones each time; values are never drawn at random.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from mmtrt.parity import fills
from mmtrt.parity.axes import Axes, axes_of
from mmtrt.parity.fills import Fills, Spans
from mmtrt.results import STRESS_KINDS
from mmtrt.samples import Sample
from mmtrt.tensors import Array, Feeds, ModelSpec, resize_array, resolve_shape

__all__ = ["BATCH_INVARIANCE", "DETERMINISM", "KINDS", "SATURATED", "How", "Named", "StressCase", "stress_cases"]

KINDS = STRESS_KINDS

DETERMINISM = "determinism"
BATCH_INVARIANCE = "batch-invariance"
SATURATED = "extremes, all of it"
"""The allowance of a modality that is nothing but one end of its range."""

_MOST_BYTES = 1 << 30
"""What the feeds of one case may take."""

_ROWS = 8
"""Rows of a case that is not about the batch: enough to be unlike each other."""


How = Literal["both sides", "again", "alone", "in another order"]
"""Whether a case holds the candidate to the reference, or to itself: run again, its rows alone, its rows turned."""


@dataclass(frozen=True, slots=True)
class Named:
    """What a case is called under one kind; `note` is what a reader must know of it.

    `allowance` names what its default budget allows, where that is not what its kind does.
    """

    kind: str
    name: str
    note: str = ""
    allowance: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StressCase:
    """Feeds with the batch axis, and the sizes of the named axes; one run answers for all that it is called."""

    named: tuple[Named, ...]
    sizes: Mapping[str, int]
    feeds: Feeds
    how: How = "both sides"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planned:
    """A case before its feeds are made: sizes, and the inputs that hold one value, or go from end to end of a range."""

    named: tuple[Named, ...]
    sizes: Mapping[str, int]
    fills: Fills = field(default_factory=dict)
    spans: Spans = field(default_factory=dict)
    how: How = "both sides"

    @property
    def key(self) -> tuple[object, ...]:
        """Equal where the runs would be."""
        return (self.how, *sorted(self.sizes.items()), *sorted(self.fills.items()), *sorted(self.spans.items()))


def stress_cases(
    spec: ModelSpec,
    samples: Sequence[Sample],
    kinds: Sequence[str] = KINDS,
    *,
    calibrated: Spans | None = None,
    most_bytes: int = _MOST_BYTES,
) -> Iterator[StressCase]:
    """Yield the cases of the kinds asked for, each with its feeds made when it is asked for.

    `samples` are a few of the set, checked, without the batch axis; `calibrated` are the ranges of float inputs that a
    calibration saw. A case that two kinds share is there once, with both names. The batch is cut where a case's feeds
    would take more than `most_bytes`, and its note says so.
    """
    usable = [s for s in samples if all(np.asarray(s[tensor.name]).size for tensor in spec.inputs)]
    if not usable:
        return
    axes = axes_of(spec, usable)
    merged: dict[tuple[object, ...], _Planned] = {}
    for kind in kinds:
        for made in _makers()[kind](spec, axes, usable, calibrated or {}):
            cut = _cut(made, spec, axes, most_bytes)
            known = merged.get(cut.key)
            merged[cut.key] = replace(known, named=(*known.named, *cut.named)) if known else cut
    for planned in merged.values():
        feeds = _feeds(spec, usable, planned.sizes)
        for name, value in planned.fills.items():
            feeds[name] = np.full_like(feeds[name], value)
        for name, (low, high) in planned.spans.items():
            feeds[name] = fills.stretched(feeds[name], low, high)
        yield StressCase(named=planned.named, sizes=planned.sizes, feeds=feeds, how=planned.how)


# ---------------------------------------------------------------------------------------------------- the kinds

_Maker = Callable[[ModelSpec, Axes, Sequence[Sample], Spans], Iterator[_Planned]]


def _makers() -> Mapping[str, _Maker]:
    return {
        "corner": _corner,
        "batch": _batch,
        "length": _length,
        "masked": lambda spec, axes, _, __: _filled("masked", axes, fills.masked(spec)),
        "zeroed": lambda spec, axes, samples, _: _filled("zeroed", axes, fills.zeroed(spec, samples)),
        "constant": lambda spec, axes, samples, _: _filled("constant", axes, fills.constant(spec, samples)),
        "extremes": _extremes,
        DETERMINISM: _determinism,
        BATCH_INVARIANCE: _batch_invariance,
    }


def _corner(_: ModelSpec, axes: Axes, __: Sequence[Sample], ___: Spans) -> Iterator[_Planned]:
    for sizes in axes.corners():
        yield _Planned(named=(Named("corner", _told(sizes), axes.corner_note),), sizes=sizes)


def _batch(_: ModelSpec, axes: Axes, __: Sequence[Sample], ___: Spans) -> Iterator[_Planned]:
    if axes.batch and axes.batch.moves:
        for size in (axes.batch.lowest, axes.batch.highest):
            sizes = {**axes.usual(), **axes.batch.at(size)}
            yield _Planned(named=(Named("batch", f"{axes.batch.name} = {size}"),), sizes=sizes)


def _length(_: ModelSpec, axes: Axes, __: Sequence[Sample], ___: Spans) -> Iterator[_Planned]:
    for axis in axes.others:
        for size in (axis.lowest, axis.highest) if axis.moves else ():
            sizes = {**axes.usual(), **axis.at(size)}
            yield _Planned(named=(Named("length", f"{axis.name} = {size}"),), sizes=sizes)


def _filled(kind: str, axes: Axes, found: Iterator[tuple[str, Fills]]) -> Iterator[_Planned]:
    for modality, values in found:
        yield _Planned(named=(Named(kind, modality),), sizes=axes.usual(rows=_ROWS), fills=values)


def _extremes(spec: ModelSpec, axes: Axes, samples: Sequence[Sample], calibrated: Spans) -> Iterator[_Planned]:
    sizes = axes.usual(rows=_ROWS)
    for modality, spans, note in fills.extremes(spec, samples, calibrated):
        yield _Planned(named=(Named("extremes", f"{modality} from end to end", note),), sizes=sizes, spans=spans)
        for end, which in enumerate(("lowest", "highest")):
            values = {name: span[end] for name, span in spans.items()}
            named = Named("extremes", f"all {modality} at its {which}", note, SATURATED)
            yield _Planned(named=(named,), sizes=sizes, fills=values)


def _determinism(_: ModelSpec, axes: Axes, __: Sequence[Sample], ___: Spans) -> Iterator[_Planned]:
    yield _Planned(named=(Named(DETERMINISM, "run again"),), sizes=axes.usual(rows=_ROWS), how="again")


def _batch_invariance(spec: ModelSpec, axes: Axes, __: Sequence[Sample], ___: Spans) -> Iterator[_Planned]:
    firsts = {tensor.shape[0] if tensor.shape else None for tensor in spec.inputs}
    named = axes.batch is not None and all(isinstance(first, str) for first in firsts)
    sizes = axes.usual(rows=_ROWS)
    if axes.batch is not None and named:
        rows = max(sizes[axes.batch.name], min(2, axes.batch.highest))
        sizes |= axes.batch.at(rows)
    else:
        # Fixed, and the same in all inputs, or there is no telling whose rows belong together.
        rows = next(iter(firsts)) if len(firsts) == 1 else None  # type: ignore[assignment]
    if isinstance(rows, int) and rows > 1:
        how: How = "alone" if axes.batch is not None and axes.batch.lowest == 1 else "in another order"
        name = "alone and in a batch" if how == "alone" else how
        yield _Planned(named=(Named(BATCH_INVARIANCE, name),), sizes=sizes, how=how)


# --------------------------------------------------------------------------------------------------- the feeds


def _told(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} = {size}" for name, size in sizes.items()) or "the fixed shape"


def _cut(planned: _Planned, spec: ModelSpec, axes: Axes, most_bytes: int) -> _Planned:
    """Return the case with fewer rows where its feeds would take too much."""
    taken = sum(math.prod(resolve_shape(t.shape, planned.sizes)) * np.dtype(t.dtype).itemsize for t in spec.inputs)
    if taken <= most_bytes or axes.batch is None:
        return planned
    rows = planned.sizes[axes.batch.name]
    fits = max(axes.batch.lowest, rows * most_bytes // taken)
    if fits >= rows:
        return planned
    why = f"{rows} rows would take {taken / (1 << 20):.0f} MiB: {fits} are run"
    named = tuple(replace(one, note="; ".join(filter(None, (one.note, why)))) for one in planned.named)
    return replace(planned, named=named, sizes={**planned.sizes, **axes.batch.at(fits)})


def _feeds(spec: ModelSpec, samples: Sequence[Sample], sizes: Mapping[str, int]) -> dict[str, Array]:
    """Stack the samples whose sizes come nearest, each repeated or cut to the sizes wanted."""
    nearest = sorted(samples, key=lambda sample: _distance(spec, sample, sizes))
    feeds = {}
    for tensor in spec.inputs:
        shape = resolve_shape(tensor.shape, sizes)
        rows = [resize_array(np.asarray(nearest[i % len(nearest)][tensor.name]), shape[1:]) for i in range(shape[0])]
        feeds[tensor.name] = np.stack(rows)
    return feeds


def _distance(spec: ModelSpec, sample: Sample, sizes: Mapping[str, int]) -> int:
    return sum(
        abs(size - sizes[dim])
        for tensor in spec.inputs
        for dim, size in zip(tensor.shape[1:], np.shape(sample[tensor.name]), strict=True)
        if isinstance(dim, str)
    )
