"""Tensors that keep their name in a conversion and not their meaning.

A scale or an offset that INT8 balances with goes into the LayerNormalization before and the bias behind: what is
between is far from the reference's and right all the same. Such a tensor is wrong by its name, and so is the next one
behind it that is not moved: on the reference's value it makes no sense. Together they are right, which is tried: the
nodes from before the first to the second run on the reference's values.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from mmtrt.parity.distance import as_held
from mmtrt.parity.probing import TensorError
from mmtrt.parity.running import values_of
from mmtrt.parity.segments import Segment
from mmtrt.parity.subgraphs import Part
from mmtrt.tensors import Feeds

__all__ = ["MOVED_DB", "moved_tensors"]

MOVED_DB = 10.0
"""By how much two tensors are nearer together than each alone, where one was moved over the other."""
_LEVELS = 3


def moved_tensors(
    reference: Part,
    candidate: Part,
    tensors: Mapping[str, str],
    errors: Sequence[TensorError],
    limit_db: float,
    feed: Feeds,
) -> set[str]:
    """Return the candidate's tensors that are no pair of what `tensors` says.

    Layers whose own error is below `limit_db` are looked at, on one feed.
    """
    along = {row.tensor: row.inherited.sqnr_db for row in errors if not row.unlike}
    own = {row.tensor: row.own.sqnr_db for row in errors if row.own is not None and row.own.sqnr_db < limit_db}
    if not own:
        return set()
    above = _ways_up(candidate, along, own, limit_db)
    tries = {name: _levels(name, above) for name in own if above[name]}
    if not tries:
        return set()
    pairs = {name: told for name, told in tensors.items() if name in along}
    wanted = {
        read
        for name, levels in tries.items()
        for level in levels
        for read in candidate.entries(_segment(candidate, name, pairs, level))
    }
    told = values_of(reference, sorted({pairs[n] for n in (*wanted, *tries) if n in pairs}), feed)
    got = values_of(candidate, sorted(wanted), feed)
    clean = {n: as_held(told[pairs[n]], got[n]) if n in pairs else got[n] for n in wanted}
    found: set[str] = set()
    for name, levels in tries.items():
        for level in levels:
            nodes = _segment(candidate, name, pairs, level)
            inputs = {read: clean[read] for read in candidate.entries(nodes)}
            whole = Segment(part=candidate, nodes=tuple(nodes), inputs=inputs, output=name, expected=told[pairs[name]])
            if whole.sqnr_db() > own[name] + MOVED_DB:
                found |= level
                break
    return found - set(candidate.outputs)


def _ways_up(part: Part, along: Mapping[str, float], own: Collection[str], limit_db: float) -> dict[str, set[str]]:
    """Return by tensor those from it up to the nearest that are wrong themselves; what leads to none is left out."""
    ends = set(along)
    found: dict[str, set[str]] = {}
    for tensor in along:
        upstream: set[str] = set()
        for name in part.entries(part.segment(tensor, ends - {tensor})):
            if name in along and name not in part.inputs and along[name] < limit_db:
                further = {name} if name in own else found.get(name, set())
                upstream |= {name, *further} if further else set()
        found[tensor] = upstream
    return found


def _levels(tensor: str, above: Mapping[str, set[str]]) -> list[set[str]]:
    """Return ever longer ways up: to the nearest that are wrong, and on from these."""
    levels = [set(above[tensor])]
    while len(levels) < _LEVELS:
        more = levels[-1].union(*(above.get(name, set()) for name in levels[-1]))
        if more == levels[-1]:
            break
        levels.append(more)
    return levels


def _segment(part: Part, tensor: str, pairs: Mapping[str, str], moved: Collection[str]) -> list[int]:
    return part.segment(tensor, {name for name in pairs if name not in moved and name != tensor})
