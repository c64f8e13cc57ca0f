"""How near a conversion came to its own FP32, kept in the ONNX that it made.

A default budget has to allow for any model, and a good conversion is tens of dB better than that: what takes most of it
away again, a scale that was edited, a weight that was lost, would pass. So a conversion is run beside its FP32 over
some of its calibration samples, and by default a check of it expects no more than `MARGIN_DB` less on each output.
An engine is held to the default: other kernels round elsewhere.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import onnx

from mmtrt.errors import MmtrtError, ModelError
from mmtrt.onnx_files import metadata_of, model_spec, open_model, save_model, set_metadata
from mmtrt.onnx_mapped import weight_bytes
from mmtrt.parity.budget import Budget, default_budget
from mmtrt.parity.compare import compare
from mmtrt.parity.side import Side
from mmtrt.pipeline.context import Context
from mmtrt.runtimes.isolated import IsolatedOrtRunner
from mmtrt.samples import SampleSet, batches, checked

__all__ = ["MARGIN_DB", "REACHED_KEY", "reached_budget", "stored_reached", "tell_reached"]

REACHED_KEY = "mmtrt.reached"
"""SQNR in dB by output, as JSON."""

MARGIN_DB = 12.0
"""Other samples cost up to 5 dB, see decision 0038; the rest is for sets that are small, or further off."""

_SAMPLES, _FEW_SAMPLES = 64, 16
_LARGE_BYTES = 64 << 20
"""A model with more weights than this is run over few samples: they take seconds, and have many elements each."""

_BATCH = 16


def tell_reached(context: Context, model: Path, converted: Path, samples: SampleSet, *, precision: str) -> None:
    """Measure a converted ONNX against the one that it was made of, and write the SQNR of each output into it.

    Samples that are no data tell nothing. What can't be run here is left without, with a note.
    """
    if not samples.on_data:
        return
    context.stage(f"{precision}: what was reached")
    proto = open_model(model)
    spec = model_spec(proto)
    large = sum(map(weight_bytes, proto.graph.initializer)) > _LARGE_BYTES
    few = itertools.islice(samples.inputs_only(), _FEW_SAMPLES if large else _SAMPLES)
    sides = [Side(what=str(path), runner=IsolatedOrtRunner(path)) for path in (model, converted)]
    try:
        outputs = compare(sides[0], sides[1:], batches(checked(few, spec), spec, size=_BATCH))[0].outputs
    except MmtrtError as error:
        context.note(f"what {converted.name} reached was not measured: {error.message}")
        return
    reached = {
        name: round(float(ratio), 1)
        for name, output in outputs.items()
        if (ratio := output.metrics.get("sqnr_db")) is not None and output.kind != "integers"
    }
    made = open_model(converted)
    set_metadata(made, {REACHED_KEY: json.dumps(reached, sort_keys=True)})
    save_model(made, converted, converted.parent)


def stored_reached(proto: onnx.ModelProto) -> dict[str, float]:
    """Return the SQNR in dB that a conversion reached by output; nothing where it was not measured.

    ModelError where it can't be read.
    """
    try:
        found = json.loads(metadata_of(proto).get(REACHED_KEY, "{}"))
        return {str(name): float(ratio) for name, ratio in found.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"the model's {REACHED_KEY} metadata can't be read: {error}", fix="Build it again.") from error


def reached_budget(proto: onnx.ModelProto, precision: str) -> Budget:
    """Return what a check of a converted ONNX expects by what it reached, where that is more than the default."""
    default = default_budget(precision)["sqnr_db"]
    bounds = {name: round(ratio - MARGIN_DB, 1) for name, ratio in stored_reached(proto).items()}
    return {f"{name}:sqnr_db": bound for name, bound in bounds.items() if bound > default}
