"""A piece of the candidate on the reference's values: what it returns there is its own doing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mmtrt.errors import MmtrtError
from mmtrt.parity.distance import Distance, as_held
from mmtrt.parity.running import run_part, values_of
from mmtrt.parity.subgraphs import Part
from mmtrt.runtimes.ort import session_from
from mmtrt.tensors import Array, Feeds

__all__ = ["Segment", "distance_db", "segment_at"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Nodes of a graph, what they read, what they return, and what that should be."""

    part: Part
    nodes: tuple[int, ...]
    inputs: Mapping[str, Array]
    output: str
    expected: Array

    def run(self, output: str | None = None) -> Array:
        """Return the output, or another tensor that the nodes make; MmtrtError where it can't be run."""
        wanted = output or self.output
        if wanted in self.inputs:
            return self.inputs[wanted]
        model = self.part.cut(self.nodes, self.inputs, [wanted], {})
        session = session_from(model, "verifying", folder=self.part.path.parent)
        return run_part(self.part, session, [wanted], self.inputs)[wanted]

    def sqnr_db(self) -> float:
        """Return how near the output is to what it should be; NaN where it can't be run, which shows nothing."""
        try:
            return distance_db(self.expected, self.run())
        except MmtrtError:
            return math.nan

    def with_given(self, given: Mapping[str, Array]) -> Segment:
        """Return the segment with some of its tensors given, without what is not needed then."""
        inputs = {**self.inputs, **given}
        needed = set(self.part.segment(self.output, inputs.keys() - {self.output}))
        nodes = tuple(index for index in self.nodes if index in needed)
        read = set(self.part.entries(nodes))
        return replace(self, nodes=nodes, inputs={n: array for n, array in inputs.items() if n in read})


def distance_db(expected: Array, got: Array) -> float:
    """Return the SQNR in dB; minus infinity where the shapes differ."""
    if expected.shape != got.shape:
        return -math.inf
    distance = Distance()
    distance.add(expected, got)
    return distance.sqnr_db


def segment_at(reference: Part, candidate: Part, tensors: Mapping[str, str], output: str, feed: Feeds) -> Segment:
    """Return the nodes from the nearest aligned tensors upstream to one of them; `tensors` are the pairs."""
    nodes = candidate.segment(output, tensors.keys() - {output})
    read = candidate.entries(nodes)
    told = values_of(reference, [tensors[name] for name in (*read, output) if name in tensors], feed)
    got = values_of(candidate, read, feed)
    inputs = {name: as_held(told[tensors[name]], got[name]) if name in tensors else got[name] for name in read}
    return Segment(part=candidate, nodes=tuple(nodes), inputs=inputs, output=output, expected=told[tensors[output]])
