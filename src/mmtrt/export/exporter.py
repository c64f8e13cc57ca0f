"""The export stage: a source becomes an ONNX file, a calibration set and golden samples beside it."""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnxruntime
import torch

import mmtrt
from mmtrt.errors import ModelError
from mmtrt.export.shapes import example_sizes, settle_ranges
from mmtrt.export.sources import Source
from mmtrt.export.tidy import tidy
from mmtrt.export.tracing import OPSET, trace
from mmtrt.export.verify import Verified, verify
from mmtrt.onnx_files import BUDGET_KEY, SPEC_KEY, graph_spec, save_model, set_metadata
from mmtrt.runtimes.eager import EagerRunner
from mmtrt.samples import OUTPUT, Sample, SampleSet, checked, split_label, write_samples
from mmtrt.tensors import Array, ModelSpec

__all__ = ["CALIBRATION_SAMPLES", "GOLDEN_SAMPLES", "ExportOptions", "Exported", "export_model"]

CALIBRATION_SAMPLES = 256
GOLDEN_SAMPLES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What may differ between two exports of one source; `budget` is the parity budget that the ONNX carries."""

    opset: int = OPSET
    ranges: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    calibration_samples: int = CALIBRATION_SAMPLES
    budget: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export wrote, and what it proved: `golden` and `calibration` are folders of `.npz` samples."""

    onnx: Path
    calibration: Path
    golden: Path
    spec: ModelSpec
    verified: tuple[Verified, ...]
    warnings: tuple[str, ...]


def export_model(source: Source, folder: Path, options: ExportOptions | None = None) -> Exported:
    """Export, verify, and write `<name>.onnx`, `<name>.calib/` and `<name>.golden/` into `folder`.

    ModelError where PyTorch refuses the module, or the graph says anything else than the module at the
    traced, smallest or largest shape.
    """
    options = options or ExportOptions()
    warnings: list[str] = []
    ranges = settle_ranges(source, options.ranges, warnings.append)
    model, ranges = trace(source, ranges, folder, opset=options.opset, warn=warnings.append)
    tidy(model, source)
    spec = _spec(source, model, ranges, warnings.append)
    told = {SPEC_KEY: json.dumps(spec.to_json(), ensure_ascii=False)}
    if options.budget:
        told[BUDGET_KEY] = json.dumps(dict(sorted(options.budget.items())))
    set_metadata(model, told)
    path = folder / f"{source.name}.onnx"
    save_model(model, path)
    verified = verify(source, path, ranges)
    calibration = folder / f"{source.name}.calib"
    golden = folder / f"{source.name}.golden"
    about = {"source": source.reference, "module_digest": source.digest}
    count = write_samples(calibration, checked(_samples(source, options), spec), about=about)
    if source.samples is None:
        warnings.append(f"{source.reference} offers no samples: the calibration set holds the {count} example inputs")
    picked = itertools.islice(checked(_samples(source, options), spec), GOLDEN_SAMPLES)
    write_samples(golden, _with_outputs(source, spec, picked), about=about)
    return Exported(
        onnx=path,
        calibration=calibration,
        golden=golden,
        spec=spec,
        verified=tuple(verified),
        warnings=tuple(warnings),
    )


def _spec(
    source: Source,
    model: onnx.ModelProto,
    ranges: Mapping[str, tuple[int, int, int]],
    warn: Callable[[str], None],
) -> ModelSpec:
    shown = graph_spec(model)
    if source.outputs is not None and len(source.outputs) != len(shown.outputs):
        raise ModelError(
            f"{source.reference}: {len(source.outputs)} outputs are named, the module has {len(shown.outputs)}",
            fix="Name each of them, or none.",
        )
    names = [tensor.name for tensor in shown.inputs]
    for name in source.examples:
        if name not in names:
            warn(f"the graph does not use input {name!r}: the exporter dropped it")
    used = {name for node in model.graph.node for name in node.input}
    for name in names:
        if name not in used:
            warn(f"the graph does not use input {name!r}")
    kept = {dim for tensor in shown.inputs for dim in tensor.shape if isinstance(dim, str)}
    for name, size in example_sizes(source).items():
        if name not in kept and ranges[name][0] < ranges[name][2]:
            warn(f"axis {name!r} lost its dynamism: the graph takes {size} only")
    return ModelSpec(
        inputs=shown.inputs,
        outputs=shown.outputs,
        modalities={m: tuple(i for i in inputs if i in names) for m, inputs in source.modalities.items()},
        ranges={name: span for name, span in ranges.items() if name in kept},
        limits=shown.limits,
        source=source.reference,
        digest=source.digest,
        versions={
            "mmtrt": mmtrt.__version__,
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
    )


def _samples(source: Source, options: ExportOptions) -> Iterator[Sample]:
    """Yield the source's own samples, or its example inputs, split along the batch axis."""
    if source.samples is None:
        yield from _split(source)
        return
    make, wanted = source.samples, options.calibration_samples
    count = {"count": wanted} if "count" in inspect.signature(make).parameters else {}
    # As a set, which names the sample at which the function fails.
    name = f"the samples of {source.reference}"
    yield from SampleSet(source=name, key="", read=lambda: itertools.islice(make(**count), wanted))


def _split(source: Source) -> Iterator[Sample]:
    counts = {array.shape[0] for array in source.examples.values() if array.ndim}
    if len(counts) != 1:
        raise ModelError(
            f"{source.reference}: the example inputs have no common batch axis, so they can't be split into samples",
            fix="Let the factory offer samples.",
        )
    for index in range(counts.pop()):
        yield {name: array[index] for name, array in source.examples.items()}


def _with_outputs(source: Source, spec: ModelSpec, samples: Iterable[Sample]) -> Iterator[dict[str, Array]]:
    runner = EagerRunner(source.module, source.inputs, [tensor.name for tensor in spec.outputs])
    for sample in samples:
        inputs, _ = split_label(sample)
        outputs = runner.infer({name: array[None] for name, array in inputs.items()})
        yield {**sample, **{f"{OUTPUT}{name}": array[0] for name, array in outputs.items()}}
