"""Which nodes of a graph say something else on the same values.

1. The graph is run part after part, each twice in one session on what a first run made: a node with a seed begins anew
   with each session, and would say the same in two.
2. The first node of a part that differs is random, since all that it read was the same. What is behind it is run anew
   on what it said first, so that each random node shows, and nothing else.
3. A third run goes on with its own values: how far that takes the outputs from each other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mmtrt.parity.distance import Distance
from mmtrt.parity.probing import TensorError
from mmtrt.parity.running import run_part
from mmtrt.parity.subgraphs import Part
from mmtrt.parity.walking import Walk
from mmtrt.runtimes.ort import session_from
from mmtrt.tensors import Array, Feeds

__all__ = ["Again", "place_of", "run_again"]

_TRIES = 4
"""What is random may say the same by chance: so often is a graph run where it does."""
_PART_NODES = 16
_MOST_NODES = 128
_PART_BYTES = 64 << 20
"""Bytes of activations at which a part ends, about: all that it makes is held three times."""
_NUMBERS = "fiub"


@dataclass(slots=True, kw_only=True)
class Again:
    """A graph run again: its tensors in its order, each beside itself, and those that random nodes made."""

    feed: Feeds
    errors: dict[str, TensorError] = field(default_factory=dict)
    random: dict[str, TensorError] = field(default_factory=dict)


def run_again(part: Part, feeds: Sequence[Feeds]) -> Again:
    """Run a graph again on the first of some feeds that shows a random node; on the last where none does."""
    found = [Again(feed=feeds[0])]
    for feed in [*feeds] * _TRIES:
        found = [_run(part, feed)]
        if found[0].random:
            break
    return found[0]


def place_of(part: Part, name: str, ends: Collection[str]) -> str | None:
    """Return the nearest tensor of `ends` that is made of a tensor, or is it; None where none is."""
    reached = {name}
    if name in ends:
        return name
    for index in part.moving:
        node = part.nodes[index]
        if any(read in reached for read in part.needs(index)):
            found: list[str] = [made for made in node.output if made in ends]
            if found:
                return found[0]
            reached.update(made for made in node.output if made)
    return None


def _run(part: Part, feed: Feeds) -> Again:
    found = Again(feed=feed)
    walk = Walk(part)
    first = {name: feed[name] for name in part.inputs}
    second = dict(first)
    count = _PART_NODES
    while walk.left:
        chosen = walk.left[:count]
        made = [name for index in chosen for name in part.nodes[index].output if name]
        given = {name: first[name] for name in part.entries(chosen)}
        session = session_from(part.cut(chosen, given, made, {}), "verifying", folder=part.path.parent)
        once, again, along = (run_part(part, session, made, values) for values in (first, first, second))
        ran = _up_to_random(part, chosen, once, again)
        for index in ran:
            _add(found, [name for name in part.nodes[index].output if name], once, again, along)
        live = walk.live_after(ran)
        walk.done(ran)
        for values, got in ((first, once), (second, along)):
            values.update({name: got[name] for name in live})
            walk.forget(values)
        size = sum(array.nbytes for array in once.values())
        count = int(np.clip(len(chosen) * _PART_BYTES / max(size, 1), 1, _MOST_NODES))
    return found


def _up_to_random(
    part: Part, chosen: Sequence[int], once: Mapping[str, Array], again: Mapping[str, Array]
) -> Sequence[int]:
    """Return the nodes up to the first that is random, and that one; all of them where none is."""
    for place, index in enumerate(chosen):
        if any(not _same(once[name], again[name]) for name in part.nodes[index].output if name):
            return chosen[: place + 1]
    return chosen


def _add(
    found: Again,
    made: Sequence[str],
    once: Mapping[str, Array],
    again: Mapping[str, Array],
    along: Mapping[str, Array],
) -> None:
    """Add what a node made, thrice; of what a random node made, the first tensor that differs stands for it."""
    differ = [name for name in made if not _same(once[name], again[name])]
    for name in made:
        row = TensorError(name, name, own=_between(once[name], again[name]))
        row.inherited = _between(once[name], along[name]) or Distance()
        row.apart = once[name].shape != along[name].shape
        found.errors[name] = row
    if differ:
        found.random[differ[0]] = found.errors[differ[0]]


def _same(one: Array, other: Array) -> bool:
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def _between(one: Array, other: Array) -> Distance | None:
    """Return how far two runs are from each other; None where they can't be compared by numbers."""
    if one.shape != other.shape or one.dtype.kind not in _NUMBERS:
        return None
    distance = Distance()
    distance.add(one, other)
    return distance
