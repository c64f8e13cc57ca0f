"""Run two graphs side by side, part after part, and compare each pair of tensors twice.

Each graph is run exactly once from its inputs to its outputs, in parts: a part has its own weights and its own
activations in memory, and of what was before only what is still to be read. A third run is of the candidate's nodes on
the reference's values: what a layer does wrong by itself. A search that halves the graph would run half of it again at
each step; this costs three passes, and tells of every layer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmtrt.errors import MmtrtError
from mmtrt.parity.alignment import Alignment
from mmtrt.parity.distance import Distance, as_held, as_told
from mmtrt.parity.running import run_part
from mmtrt.parity.subgraphs import Part, clean_name
from mmtrt.parity.walking import Kept, Walk
from mmtrt.runtimes.ort import session_from
from mmtrt.tensors import Array, Feeds

__all__ = ["Probed", "TensorError", "probe"]

_PART_NODES = 32
_MOST_NODES = 256
_PART_BYTES = 64 << 20
"""Bytes of the reference's activations at which a part ends, about."""
_PART_WEIGHTS = 256 << 20


@dataclass(slots=True)
class TensorError:
    """One pair of tensors: the error along the graph, and that of the candidate's nodes on the reference's values.

    `own` is None where that could not be run; `unlike` says that it is no pair after all, `apart` that it is none for
    its shapes.
    """

    tensor: str
    reference: str
    inherited: Distance = field(default_factory=Distance)
    own: Distance | None = field(default_factory=Distance)
    apart: bool = False
    unlike: bool = False


@dataclass(slots=True, kw_only=True)
class Probed:
    """What a probe saw: each pair in the candidate's order, both sides' outputs, and the reference's types."""

    errors: list[TensorError]
    outputs: list[dict[str, Array]]
    kept: Kept


@dataclass(slots=True)
class _Feed:
    """What is known while one feed goes through: each side's values that are still to be read."""

    reference: dict[str, Array]
    candidate: dict[str, Array]
    told: dict[str, Array] = field(default_factory=dict)
    """The reference's aligned values that the candidate has not come to."""
    clean: dict[str, Array] = field(default_factory=dict)
    """The reference's values, as the candidate holds them."""
    own: dict[str, Array] = field(default_factory=dict)
    """What the candidate's nodes make of these, where nothing in the reference stands for it."""


def probe(
    reference: Part, candidate: Part, alignment: Alignment, feeds: Sequence[Feeds], folder: Path, suspect_db: float
) -> Probed:
    """Run both graphs on some feeds and compare all pairs; own values below `suspect_db` are kept in `folder`."""
    return _Probe(reference, candidate, alignment, feeds, Kept(folder), suspect_db).run()


class _Probe:
    def __init__(
        self,
        reference: Part,
        candidate: Part,
        alignment: Alignment,
        feeds: Sequence[Feeds],
        kept: Kept,
        suspect_db: float,
    ) -> None:
        self._sides = Walk(reference), Walk(candidate)
        self._tensors = dict(alignment.tensors)
        self._feeds = [_Feed(_given(reference, feed), _given(candidate, feed)) for feed in feeds]
        for feed in self._feeds:
            feed.clean.update(feed.candidate)
        self._kept = kept
        self._suspect_db = suspect_db
        self._errors: dict[str, TensorError] = {}
        self._outputs: list[dict[str, Array]] = [{} for _ in feeds]
        self._nodes = _PART_NODES

    def run(self) -> Probed:
        theirs, ours = self._sides
        while theirs.left or ours.left:
            chosen = self._next_of_reference()
            if chosen:
                self._run_reference(chosen)
            ready = self._ready(final=not theirs.left)
            if ready:
                self._run_candidate(ready)
        return Probed(errors=list(self._errors.values()), outputs=self._outputs, kept=self._kept)

    def _next_of_reference(self) -> list[int]:
        walk = self._sides[0]
        chosen: list[int] = []
        weight = 0
        for index in walk.left[: self._nodes]:
            weight += sum(_bytes_of(walk.part, name) for name in walk.part.roots(index))
            if chosen and weight > _PART_WEIGHTS:
                break
            chosen.append(index)
        return chosen

    def _run_reference(self, chosen: Sequence[int]) -> None:
        walk = self._sides[0]
        aligned = set(self._tensors.values())
        made = {name for index in chosen for name in walk.part.nodes[index].output if name}
        live = walk.live_after(chosen)
        outputs = sorted(live | made & aligned | made & set(walk.part.outputs))
        size = 0
        for feed, kept, got in self._each(walk, chosen, outputs, [feed.reference for feed in self._feeds]):
            feed.reference.update({name: got[name] for name in live})
            feed.told.update({name: array for name, array in got.items() if name in aligned})
            kept.update({name: array for name, array in got.items() if name in walk.part.outputs})
            size += sum(array.nbytes for array in got.values())
        walk.done(chosen)
        for feed in self._feeds:
            walk.forget(feed.reference)
        self._nodes = int(np.clip(len(chosen) * _PART_BYTES / max(size, 1), 8, _MOST_NODES))

    def _each(
        self, walk: Walk, chosen: Sequence[int], outputs: Sequence[str], given: Sequence[dict[str, Array]]
    ) -> Iterable[tuple[_Feed, dict[str, Array], dict[str, Array]]]:
        """Run nodes on each feed in one session."""
        if not outputs:
            return
        read = walk.part.entries(chosen)
        model = walk.part.cut(chosen, {name: given[0][name] for name in read}, outputs, {})
        session = session_from(model, "verifying", folder=walk.part.path.parent)
        for feed, kept, values in zip(self._feeds, self._outputs, given, strict=True):
            yield feed, kept, run_part(walk.part, session, outputs, values)

    def _ready(self, *, final: bool) -> list[int]:
        """Return the candidate's nodes whose inputs are there, and for whose outputs the reference's values are."""
        walk = self._sides[1]
        told = self._feeds[0].told
        made, ready = set(walk.made), []
        for index in walk.left:
            node = walk.part.nodes[index]
            waits = any(self._tensors.get(name, name) not in told for name in node.output if name in self._tensors)
            if all(name in made for name in walk.part.needs(index)) and (final or not waits):
                ready.append(index)
                made.update(node.output)
        return ready

    def _run_candidate(self, chosen: Sequence[int]) -> None:
        walk = self._sides[1]
        made = [name for index in chosen for name in walk.part.nodes[index].output if name]
        live = walk.live_after(chosen)
        outputs = sorted(live | {name for name in made if name in self._tensors} | set(made) & set(walk.part.outputs))
        held: list[dict[str, Array]] = []
        for feed, _, got in self._each(walk, chosen, outputs, [feed.candidate for feed in self._feeds]):
            feed.candidate.update({name: got[name] for name in live})
            held.append(got)
        if held:
            self._compare(made, held)
            self._run_own(chosen, live, held)
        walk.done(chosen)
        for feed in self._feeds:
            for values in (feed.candidate, feed.clean, feed.own):
                walk.forget(values)
            unread = {self._tensors[name] for name in self._tensors if name not in walk.made}
            feed.told = {name: array for name, array in feed.told.items() if name in unread}

    def _compare(self, made: Sequence[str], held: Sequence[dict[str, Array]]) -> None:
        """Compare what was made with what the reference has; pairs of unlike tensors are no pairs."""
        for name in [name for name in made if name in self._tensors]:
            row = TensorError(name, self._tensors[name])
            for feed, got in zip(self._feeds, held, strict=True):
                told = feed.told.get(row.reference)
                if told is None or told.shape != got[name].shape or told.dtype.kind not in _like(got[name]):
                    row.apart, row.unlike = told is not None and told.shape != got[name].shape, True
                    row.own = None
                    break
                row.inherited.add(told, got[name])
                feed.clean[name] = as_held(told, got[name])
            self._errors[name] = row
            if row.unlike:
                del self._tensors[name]
                for feed in self._feeds:
                    feed.clean.pop(name, None)

    def _run_own(self, chosen: Sequence[int], live: set[str], held: Sequence[dict[str, Array]]) -> None:
        """Run nodes on the reference's values; where that fails, halves of them, down to the node that fails."""
        part = self._sides[1].part
        made = [name for index in chosen for name in part.nodes[index].output if name]
        aligned = [name for name in made if name in self._tensors]
        outputs = sorted({*aligned, *(name for name in made if name in live and name not in self._tensors)})
        if not outputs:
            return
        own = self._own(chosen, outputs)
        if not own and len(chosen) > 1:
            first, second = chosen[: len(chosen) // 2], chosen[len(chosen) // 2 :]
            self._run_own(first, {*live, *part.entries(second)}, held)
            self._run_own(second, live, held)
            return
        for name in aligned:
            self._judge(self._errors[name], [one[name] for one in own])
        for feed, one in zip(self._feeds, own or held, strict=True):
            # Where clean values can't be run on, the candidate's own stand for what they would have made.
            feed.own.update({name: one[name] for name in outputs if name not in self._tensors and name in one})

    def _own(self, chosen: Sequence[int], outputs: Sequence[str]) -> list[dict[str, Array]]:
        """Return what nodes make of the reference's values, by feed; nothing where they can't be run on these."""
        part = self._sides[1].part
        read = part.entries(chosen)
        inside = {name for index in chosen for name in part.needs(index)}
        names = {name: clean_name(name) for name in self._feeds[0].clean}
        given: list[dict[str, Array]] = []
        for feed in self._feeds:
            clean = {names[name]: array for name, array in feed.clean.items() if name in inside}
            known = {**feed.candidate, **feed.own}
            given.append({**clean, **{name: known[name] for name in read if name in known and name not in names}})
        with contextlib.suppress(MmtrtError):
            model = part.cut(chosen, given[0], outputs, names)
            session = session_from(model, "verifying", folder=part.path.parent)
            return [run_part(part, session, outputs, values) for values in given]
        return []

    def _judge(self, row: TensorError, arrays: Sequence[Array]) -> None:
        told = [feed.told[row.reference] for feed in self._feeds]
        if not arrays or any(a.shape != b.shape for a, b in zip(told, arrays, strict=True)) or row.own is None:
            row.own = None
            return
        for reference, array in zip(told, arrays, strict=True):
            row.own.add(reference, array)
        if row.own.sqnr_db < self._suspect_db:
            pairs = zip(told, arrays, strict=True)
            self._kept.add(row.tensor, row.own.sqnr_db, [as_told(reference, array) for reference, array in pairs])


def _given(part: Part, feed: Feeds) -> dict[str, Array]:
    return {name: feed[name] for name in part.inputs}


def _like(array: Array) -> str:
    return "f" if array.dtype.kind == "f" else "iub"


def _bytes_of(part: Part, name: str) -> int:
    return int(np.prod(part.weights[name].dims, dtype=np.int64)) * 4
