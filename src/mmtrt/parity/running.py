"""Run a part of a graph on the CPU, as it stands and with its weights where they lie."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort

from mmtrt.errors import MeasurementError
from mmtrt.parity.subgraphs import Part
from mmtrt.runtimes.ort import session_from
from mmtrt.tensors import Array, Feeds

__all__ = ["run_part", "values_of"]


def run_part(part: Part, session: ort.InferenceSession, outputs: Sequence[str], given: Feeds) -> dict[str, Array]:
    """Run a session on what it reads of `given`; MeasurementError with ONNX Runtime's reason."""
    wanted = {value.name for value in session.get_inputs()}
    try:
        made = session.run(list(outputs), {name: array for name, array in given.items() if name in wanted})
    except Exception as error:
        raise MeasurementError(f"{part.path}: ONNX Runtime failed: {error}") from error
    return dict(zip(outputs, map(np.asarray, made), strict=True))


def values_of(part: Part, names: Sequence[str], feed: Feeds) -> dict[str, Array]:
    """Run as much of a graph as these tensors need."""
    found: dict[str, Array] = {name: feed[name] for name in names if name in part.inputs}
    outputs = [name for name in dict.fromkeys(names) if name not in found and name in part.makers]
    nodes = sorted({index for name in outputs for index in part.segment(name, ())})
    if outputs:
        given = {name: feed[name] for name in part.inputs}
        session = session_from(part.cut(nodes, given, outputs, {}), "verifying", folder=part.path.parent)
        found.update(run_part(part, session, outputs, given))
    return found
