"""The export stage, cached by the module's weights and code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mmtrt.artifacts import place, read_json, whole_directory, write_json
from mmtrt.errors import InputError, MachineError, MeasurementError
from mmtrt.export.exporter import ExportOptions, export_model
from mmtrt.export.findings import Finding
from mmtrt.export.sources import Source
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.parsing import not_asked, parser_findings, parsers_here
from mmtrt.results import plain
from mmtrt.tensors import ModelSpec, array_digest

__all__ = ["ExportResult", "export_stage", "export_view", "place_samples", "publish_export"]

_RESULT = "result.json"
_WRITERS = ("onnx", "onnxscript", "onnx-ir", "onnxruntime")
_ORDER = ("error", "warning", "note")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """Where an export's files are, what it proved, and what it found."""

    onnx: Path
    calibration: Path
    golden: Path
    spec: ModelSpec
    verified: tuple[Mapping[str, Any], ...]
    findings: tuple[Finding, ...]
    checkpoint: str | None
    cached: bool
    applied: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was found, in words."""
        return tuple(finding.what for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return `mmtrt.export/1`."""
        return {
            "schema": "mmtrt.export/1",
            "artifacts": {
                k: str(v) for k, v in (("onnx", self.onnx), ("calibration", self.calibration), ("golden", self.golden))
            },
            "onnx_bytes": self.onnx.stat().st_size,
            "spec": self.spec.to_json(),
            "verified": [dict(row) for row in self.verified],
            "checkpoint": self.checkpoint,
            "findings": [asdict(finding) for finding in self.findings],
            "warnings": list(self.warnings),
            "applied": list(self.applied),
            "cached": self.cached,
        }


def export_stage(context: Context, source: Source, options: ExportOptions) -> ExportResult:
    """Export a source, or take the export of the same weights, code and options from the cache."""
    context.stage(f"export {source.reference}")
    parts = {
        "source": source.reference,
        "module": source.digest,
        "inputs": [str(spec) for spec in source.inputs],
        "ranges": {name: list(span) for name, span in source.ranges.items()},
        "masks": dict(source.masks),
        "modalities": plain(source.modalities),
        "outputs": source.outputs,
        "examples": array_digest(source.examples),
        "options": plain(asdict(options)),
        "versions": [torch.__version__, *(version(package) for package in _WRITERS)],
    }

    def work(folder: Path) -> None:
        made = export_model(source, folder, options)
        result = {
            "spec": made.spec.to_json(),
            "verified": [asdict(row) for row in made.verified],
            "findings": [asdict(finding) for finding in made.findings],
            "applied": list(made.applied),
        }
        write_json(folder / _RESULT, plain(result))

    folder, cached = context.cache.run("export", parts, work)
    found = read_json(folder / _RESULT)
    onnx_path = folder / f"{source.name}.onnx"
    parsed = _parsed(context, parts, onnx_path)
    findings = [Finding.from_json(row) for row in (*found["findings"], *parsed)]
    findings.sort(key=lambda finding: _ORDER.index(finding.severity))
    for finding in findings:
        context.note(str(finding))
    return ExportResult(
        onnx=onnx_path,
        calibration=folder / f"{source.name}.calib",
        golden=folder / f"{source.name}.golden",
        spec=ModelSpec.from_json(found["spec"]),
        verified=tuple(found["verified"]),
        findings=tuple(findings),
        checkpoint=source.checkpoint,
        cached=cached,
        applied=tuple(found["applied"]),
    )


def _parsed(context: Context, parts: Mapping[str, Any], path: Path) -> list[Mapping[str, Any]]:
    """Return what TensorRT's parser says of an export; asked again where another TensorRT is here, or none answered."""

    def work(folder: Path) -> None:
        write_json(folder / _RESULT, [asdict(finding) for finding in parser_findings(path)])

    try:
        folder, _ = context.cache.run("parse", {**parts, "parsers": parsers_here()}, work)
    except (MachineError, MeasurementError) as error:
        # Of this moment, or of this machine: the next export asks again.
        return [asdict(not_asked(error, path))]
    rows: list[Mapping[str, Any]] = read_json(folder / _RESULT)
    return rows


def publish_export(result: ExportResult, folder: Path, name: str) -> ExportResult:
    """Put an export's files where the user wants them, each whole or not at all."""
    data = result.onnx.with_name(f"{result.onnx.name}.data")
    if data.exists():
        # Before the model that needs them: a kill between the two leaves no model without its weights.
        place(data, folder / data.name)
    return replace(
        result,
        onnx=place(result.onnx, folder / f"{name}.onnx"),
        calibration=place_samples(result.calibration, folder / f"{name}.calib"),
        golden=place_samples(result.golden, folder / f"{name}.golden"),
    )


def export_view(result: ExportResult) -> dict[str, str]:
    """Return names and values for people."""
    counts = Counter(str(finding.severity) for finding in result.findings)
    return {
        "ONNX": f"{result.onnx}  ({result.onnx.stat().st_size / 1e6:.2f} MB)",
        "inputs": "; ".join(map(str, result.spec.inputs)),
        "outputs": "; ".join(map(str, result.spec.outputs)),
        "ranges": ", ".join(f"{name} {a}..{b}..{c}" for name, (a, b, c) in result.spec.ranges.items()),
        "verified": "\n".join(map(_case, result.verified)),
        "calibration": f"{result.calibration}  ({len(list(result.calibration.glob('*.npz')))} samples)",
        "golden": f"{result.golden}  ({len(list(result.golden.glob('*.npz')))} samples)",
        **({"mended": ", ".join(result.applied)} if result.applied else {}),
        **({"findings": ", ".join(f"{counts[s]} {s}s" for s in _ORDER if counts[s])} if counts else {}),
        **({"cached": "nothing had changed, nothing was done"} if result.cached else {}),
    }


def _case(row: Mapping[str, Any]) -> str:
    """One case of a verification: sizes, what was missing, and how far the graph was off."""
    sizes = ", ".join(f"{name} = {size}" for name, size in row["sizes"].items()) or "its fixed shape"
    masked = f", {row['masked']} {'zero' if row['zeros'] else 'masked'}" if row["masked"] else ""
    return f"{sizes}{masked}: off by at most {max(row['max_abs'].values(), default=0):.1e}"


def _only_ours(target: Path) -> None:
    """Raise InputError where a folder of samples holds files that no export wrote: replacing it would lose them."""
    if not target.is_dir():
        return
    about = read_json(target / "set.json") if (target / "set.json").is_file() else {}
    ours = {"set.json", *(f"{index:05d}.npz" for index in range(int(about.get("count", 0))))}
    added = sorted(path.name for path in target.iterdir() if path.name not in ours)
    if added:
        raise InputError(
            f"{target} holds files that no export wrote: {', '.join(added[:5])}",
            fix="Move them to a folder of their own and name it with --calib, or export to another folder with -o.",
        )


def place_samples(source: Path, target: Path) -> Path:
    """Put a set of samples where the user wants it; InputError where that would take away what others put there."""
    files = sorted(path.name for path in source.iterdir())
    if target.is_dir() and sorted(path.name for path in target.iterdir()) == files:
        for name in files:
            place(source / name, target / name)
        return target
    _only_ours(target)
    with whole_directory(target) as part:
        for name in files:
            place(source / name, part / name)
    return target
