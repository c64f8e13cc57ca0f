"""The export stage: a source becomes an ONNX file, a calibration set and golden samples beside it."""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import onnxruntime
import torch

import mmtrt
from mmtrt.errors import ModelError
from mmtrt.export.constants import constant_findings, weight_findings
from mmtrt.export.findings import Finding, Tell
from mmtrt.export.graph_findings import fixed_sizes, input_findings
from mmtrt.export.shapes import Ranges, settle_ranges
from mmtrt.export.sources import Source
from mmtrt.export.tidy import tidy
from mmtrt.export.tracing import OPSET, trace
from mmtrt.export.verify import Verified, verify
from mmtrt.onnx_files import BUDGET_KEY, SPEC_KEY, graph_spec, save_model, set_metadata
from mmtrt.runtimes.eager import EagerRunner
from mmtrt.samples import OUTPUT, Sample, SampleSet, checked, split_label, write_samples
from mmtrt.tensors import Array, ModelSpec

__all__ = [
    "CALIBRATION_SAMPLES",
    "GOLDEN_SAMPLES",
    "ExportOptions",
    "Exported",
    "export_model",
    "own_samples",
    "with_outputs",
]

CALIBRATION_SAMPLES = 256
GOLDEN_SAMPLES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What may differ between two exports of one source.

    `budget` is the parity budget that the ONNX carries, `heads` what its outputs are (`mmtrt.metrics.KINDS`).
    """

    opset: int = OPSET
    ranges: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    calibration_samples: int = CALIBRATION_SAMPLES
    budget: Mapping[str, float] = field(default_factory=dict)
    heads: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export wrote, and what it proved: `golden` and `calibration` are folders of `.npz` samples.

    `applied` names the patches, translations and passes without which the graph would not be what it is.
    """

    onnx: Path
    calibration: Path
    golden: Path
    spec: ModelSpec
    verified: tuple[Verified, ...]
    findings: tuple[Finding, ...]
    applied: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was found, in words."""
        return tuple(finding.what for finding in self.findings)


def export_model(source: Source, folder: Path, options: ExportOptions | None = None) -> Exported:
    """Export, verify, and write `<name>.onnx`, `<name>.calib/` and `<name>.golden/` into `folder`.

    ModelError where PyTorch refuses the module, or the graph says anything else than the module at the
    traced, smallest or largest shape, or without one of its modalities.
    """
    options = options or ExportOptions()
    findings: list[Finding] = [*_checkpoint_findings(source), *weight_findings(source.module)]
    applied: list[str] = []
    path = folder / f"{source.name}.onnx"
    with TemporaryDirectory(prefix="traced-", dir=folder) as scratch:
        model, ranges = _traced(source, options, Path(scratch), findings.append, applied.append)
        findings += [*input_findings(source, model, ranges), *constant_findings(model, Path(scratch))]
        spec = _spec(source, model, ranges, options.heads)
        told = {SPEC_KEY: json.dumps(spec.to_json(), ensure_ascii=False)}
        if options.budget:
            told[BUDGET_KEY] = json.dumps(dict(sorted(options.budget.items())))
        set_metadata(model, told)
        save_model(model, path, Path(scratch))
    # An axis that lost its dynamism was told; of the others the graph still says what the module says.
    ranges |= {size: (number,) * 3 for size, number in fixed_sizes(source, model).items()}
    verified = verify(source, path, ranges, findings.append)
    calibration, golden = _write_sets(source, spec, folder, options, findings.append)
    return Exported(
        onnx=path,
        calibration=calibration,
        golden=golden,
        spec=spec,
        verified=tuple(verified),
        findings=tuple(findings),
        applied=tuple(dict.fromkeys(applied)),
    )


def _traced(
    source: Source, options: ExportOptions, scratch: Path, tell: Tell, applied: Callable[[str], None]
) -> tuple[onnx.ModelProto, Ranges]:
    """Return the tidy graph, its large weights external data in `scratch`, and its ranges."""

    def warn(text: str) -> None:
        fix = "Widen what forward accepts, or give the range yourself: `ranges` in the factory's fourth item."
        tell(Finding(kind="narrowed range", what=text, where=source.reference, fix=fix))

    ranges = settle_ranges(source, options.ranges, tell)
    model, ranges = trace(source, ranges, scratch, opset=options.opset, warn=warn, tell=applied)
    tidy(model, source)
    return model, ranges


def _checkpoint_findings(source: Source) -> list[Finding]:
    fix = "Check that it is what you meant; the weights fit in name and shape."
    return [
        Finding(kind="checkpoint", what=note, where=str(source.checkpoint), fix=fix, severity="note")
        for note in source.notes
    ]


def _write_sets(source: Source, spec: ModelSpec, folder: Path, options: ExportOptions, tell: Tell) -> tuple[Path, Path]:
    """Write the calibration set, and the golden samples with PyTorch's outputs."""
    calibration, golden = folder / f"{source.name}.calib", folder / f"{source.name}.golden"
    about: dict[str, Any] = {"source": source.reference, "module_digest": source.digest}
    if source.checkpoint is not None:
        about["checkpoint"] = source.checkpoint
    if not getattr(source.samples, "on_data", True):
        about["on_data"] = False
        tell(
            Finding(
                kind="no data",
                what=f"{source.reference} draws its samples from the configuration: they are no data",
                where=source.reference,
                fix="They do for a first engine; calibrate and check the one that counts on real events, with --calib.",
            )
        )
    count = write_samples(calibration, checked(_samples(source, options), spec), about=about)
    if source.samples is None:
        tell(
            Finding(
                kind="no samples",
                what=f"{source.reference} offers no samples: the calibration set holds the {count} example inputs",
                where=source.reference,
                fix="Let the factory's fourth item have `samples`, a function that yields real events, or use --calib.",
            )
        )
    picked = itertools.islice(checked(_samples(source, options), spec), GOLDEN_SAMPLES)
    runs = EagerRunner(source.module, source.inputs).runs
    made_by = {"runs": f"{source.reference} in {runs}", "mmtrt": mmtrt.__version__}
    write_samples(golden, with_outputs(source, spec, picked), about={**about, **made_by})
    return calibration, golden


def _spec(source: Source, model: onnx.ModelProto, ranges: Ranges, heads: Mapping[str, str]) -> ModelSpec:
    shown = graph_spec(model)
    if source.outputs is not None and len(source.outputs) != len(shown.outputs):
        raise ModelError(
            f"{source.reference}: {len(source.outputs)} outputs are named, the module has {len(shown.outputs)}",
            fix="Name each of them, or none.",
        )
    names = [tensor.name for tensor in shown.inputs]
    kept = {dim for tensor in shown.inputs for dim in tensor.shape if isinstance(dim, str)}
    return ModelSpec(
        inputs=shown.inputs,
        outputs=shown.outputs,
        modalities={m: tuple(i for i in inputs if i in names) for m, inputs in source.modalities.items()},
        ranges={name: span for name, span in ranges.items() if name in kept},
        limits=shown.limits,
        masks={name: value for name, value in source.masks.items() if name in names},
        heads={tensor.name: heads[tensor.name] for tensor in shown.outputs if tensor.name in heads},
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
    yield from own_samples(source.reference, source.samples, options.calibration_samples)


def own_samples(reference: str, make: Callable[..., Iterable[Sample]], wanted: int) -> SampleSet:
    """Return at most `wanted` samples of a source's own function, which is asked for so many where it takes a `count`.

    As a set, which names the sample at which the function fails; it has no key.
    """
    count = {"count": wanted} if "count" in inspect.signature(make).parameters else {}
    return SampleSet(
        source=f"the samples of {reference}",
        key="",
        read=lambda: itertools.islice(make(**count), wanted),
        on_data=getattr(make, "on_data", True),
    )


def _split(source: Source) -> Iterator[Sample]:
    counts = {array.shape[0] for array in source.examples.values() if array.ndim}
    if len(counts) != 1:
        raise ModelError(
            f"{source.reference}: the example inputs have no common batch axis, so they can't be split into samples",
            fix="Let the factory offer samples.",
        )
    for index in range(counts.pop()):
        yield {name: array[index] for name, array in source.examples.items()}


def with_outputs(source: Source, spec: ModelSpec, samples: Iterable[Sample]) -> Iterator[dict[str, Array]]:
    """Yield golden samples: each with the module's outputs, event by event; ModelError where it refuses one."""
    runner = EagerRunner(source.module, source.inputs, [tensor.name for tensor in spec.outputs])
    for index, sample in enumerate(samples):
        inputs, _ = split_label(sample)
        try:
            outputs = runner.infer({name: array[None] for name, array in inputs.items()})
        except Exception as error:
            raise ModelError(
                f"{source.reference} does not take golden sample {index}, one event alone: {error}",
                fix="Samples are single events: let the module take a batch of 1, and name its batch axis as dynamic.",
            ) from error
        yield {**sample, **{f"{OUTPUT}{name}": array[0] for name, array in outputs.items()}}
