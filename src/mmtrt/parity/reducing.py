"""The smallest ONNX that still shows a failure, with its inputs and what it should return, for a bug report.

1. It starts as the candidate's nodes from the nearest tensors that the reference has too, on the reference's values.
2. What only holds numbers in another way (casts, Q/DQ) is dropped from the front and the back while the failure holds:
   there it is known what a right value would be. Of other nodes it is not, so dropping them would prove nothing.
3. One event is enough where one event fails.
4. Of a node that is random, it is that node on what it read: run twice, it says two things.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from mmtrt.artifacts import whole_file
from mmtrt.errors import MeasurementError, MmtrtError
from mmtrt.onnx_files import load_model, save_model
from mmtrt.parity.running import run_part, values_of
from mmtrt.parity.segments import Segment, distance_db, segment_at
from mmtrt.parity.subgraphs import NEUTRAL, Part
from mmtrt.runtimes.ort import session_from
from mmtrt.samples import OUTPUT, write_npz
from mmtrt.tensors import Array, Feeds

__all__ = ["reduce_random", "reduce_to"]

_LARGEST_DB = sys.float_info.max
"""Two runs that are the same are infinitely near: less than that is a failure."""
_SLACK_DB = 3.0
"""A failure holds where its noise is at least half of what it was."""
_TRIES = 8
"""What is random may say the same by chance."""


def reduce_to(
    reference: Part, candidate: Part, tensors: Mapping[str, str], bad: str, feeds: Sequence[Feeds], path: Path
) -> dict[str, Any]:
    """Write the ONNX to `path` and its arrays beside it, as `.npz`: inputs by name, what is right as `output.NAME`.

    Returns where they are, how many nodes that takes, and the SQNR in dB. MeasurementError where the failure is gone
    once it stands by itself.
    """
    cases = [segment_at(reference, candidate, tensors, bad, feed) for feed in feeds]
    errors = [case.sqnr_db() for case in cases]
    # What can't be run is NaN, and shows nothing.
    worst = min(range(len(cases)), key=lambda index: errors[index] if errors[index] == errors[index] else math.inf)
    small, limit = cases[worst], errors[worst] + _SLACK_DB
    changed = True
    while changed:
        changed = False
        for tried in (*_shorter(small), *_one_event(small)):
            if tried.sqnr_db() <= limit:
                small, changed = tried, True
                break
    return _written(small, limit, path)


def reduce_random(part: Part, tensor: str, feed: Feeds, path: Path) -> dict[str, Any]:
    """Apply rule 4: write the node that makes a tensor to `path`, and what it reads and once returned beside it.

    Returns what `reduce_to` does, the SQNR being that of two runs. MeasurementError where the node by itself says the
    same each time.
    """
    index = part.makers[tensor]
    inputs = values_of(part, part.entries([index]), feed)
    session = session_from(part.cut([index], inputs, [tensor], {}), "verifying", folder=part.path.parent)
    once = run_part(part, session, [tensor], inputs)[tensor]
    small = Segment(part=part, nodes=(index,), inputs=inputs, output=tensor, expected=once)
    nodes = _save(small, once, path)
    session = session_from(load_model(path), "verifying", folder=path.parent)
    told, *rest = (run_part(part, session, [tensor], inputs)[tensor] for _ in range(1 + _TRIES))
    return _shown(small, nodes, min(distance_db(told, got) for got in rest), _LARGEST_DB, path)


def _shorter(small: Segment) -> Iterator[Segment]:
    """Apply rule 2 in each place where it can be."""
    part = small.part
    last = part.nodes[part.makers[small.output]]
    source = last.input[0] if last.input else ""
    if last.op_type in NEUTRAL and part.makers.get(source) in small.nodes:
        yield replace(small, output=source).with_given({})
    for index in small.nodes:
        node = part.nodes[index]
        source = node.input[0] if node.input else ""
        ends = [node]
        if node.op_type == "QuantizeLinear":
            ends = [part.nodes[i] for i in small.nodes if node.output[0] in part.nodes[i].input]
        elif node.op_type == "DequantizeLinear":
            continue
        made = [end.output[0] for end in ends]
        if source in small.inputs and all(end.op_type in NEUTRAL for end in ends) and small.output not in made:
            exact = {name: small.inputs[source].astype(small.run(name).dtype) for name in made}
            yield small.with_given(exact)


def _one_event(small: Segment) -> Iterator[Segment]:
    """Apply rule 3: one row of everything that has a row for each event."""
    rows = small.expected.shape[0] if small.expected.ndim else 0
    arrays = small.inputs.values()
    if rows < 2 or not arrays or any(array.ndim == 0 or array.shape[0] != rows for array in arrays):
        return
    right = small.run().shape == small.expected.shape
    for row in range(rows):
        tried = replace(
            small,
            inputs={name: array[row : row + 1] for name, array in small.inputs.items()},
            expected=small.expected[row : row + 1],
        )
        with contextlib.suppress(MmtrtError):
            # Where rows are no events, another shape would be a failure of our own.
            if not right or tried.run().shape == tried.expected.shape:
                yield tried


def _written(small: Segment, limit: float, path: Path) -> dict[str, Any]:
    nodes = _save(small, small.run(), path)
    # What a report is filed with has to fail by itself, from the files.
    session = session_from(load_model(path), "verifying", folder=path.parent)
    got = run_part(small.part, session, [small.output], small.inputs)[small.output]
    return _shown(small, nodes, distance_db(small.expected, got), limit, path)


def _save(small: Segment, got: Array, path: Path) -> int:
    """Write the ONNX, typed as what it returned, and the arrays beside it; return how many nodes it has."""
    part = small.part
    model = part.cut(small.nodes, {}, [], {})
    model.graph.input.extend(_typed(name, array) for name, array in small.inputs.items())
    model.graph.output.append(_typed(small.output, got))
    model.producer_name = "mmtrt"
    save_model(model, path, part.path.parent)
    with whole_file(path.with_suffix(".npz")) as partly, partly.open("wb") as stream:
        write_npz(stream, {**small.inputs, f"{OUTPUT}{small.output}": small.expected})
    return len(model.graph.node)


def _shown(small: Segment, nodes: int, again: float, limit: float, path: Path) -> dict[str, Any]:
    """Return what was written, if it shows the failure."""
    if not again <= limit:
        raise MeasurementError(
            f"the failure at {small.output!r} is gone once its nodes stand by themselves",
            fix="Report the whole model, with the sample that shows it.",
        )
    return {
        "onnx": str(path),
        "arrays": str(path.with_suffix(".npz")),
        "nodes": nodes,
        "sqnr_db": again if math.isfinite(again) else None,
    }


def _typed(name: str, array: Array) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, kind, list(array.shape))
