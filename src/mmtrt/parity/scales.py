"""Whether a layer is wrong for how its input is quantised."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from mmtrt.errors import MmtrtError
from mmtrt.parity.moving import MOVED_DB
from mmtrt.parity.segments import segment_at
from mmtrt.parity.subgraphs import NEUTRAL, Part, note_of
from mmtrt.tensors import Feeds

__all__ = ["wrong_scale"]


def wrong_scale(
    reference: Part, candidate: Part, tensors: Mapping[str, str], bad: str, feed: Feeds
) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    """Return the QuantizeLinear without which a bad tensor is nearer, by `MOVED_DB`, and the layer that reads it.

    That is the bad tensor's own where a module has it, else the first that reads the codes.
    None where no Q/DQ is to blame.
    """
    segment = segment_at(reference, candidate, tensors, bad, feed)
    before = segment.sqnr_db()
    for index in segment.nodes:
        node = candidate.nodes[index]
        if node.op_type != "QuantizeLinear":
            continue
        for reader in candidate.readers.get(node.output[0], []):
            made = candidate.nodes[reader].output[0]
            if candidate.nodes[reader].op_type != "DequantizeLinear" or made == bad:
                continue
            try:
                exact = segment.run(node.input[0]).astype(segment.run(made).dtype)
            except MmtrtError:
                continue
            if segment.with_given({made: exact}).sqnr_db() > before + MOVED_DB:
                own = candidate.behind(bad)
                layer = own if note_of(own) else _first_reader(candidate, made)
                return (node, layer) if layer is not None else None
    return None


def _first_reader(part: Part, name: str) -> onnx.NodeProto | None:
    """Return the first node of a module that reads a tensor, through what only holds it in another way."""
    found = []
    for index in part.readers.get(name, []):
        node = part.nodes[index]
        if node.op_type not in NEUTRAL:
            found.append(index)
        else:
            further = _first_reader(part, node.output[0])
            if further is not None:
                found.append(part.makers[further.output[0]])
    named = [index for index in found if note_of(part.nodes[index])]
    return part.nodes[min(named or found)] if found else None
