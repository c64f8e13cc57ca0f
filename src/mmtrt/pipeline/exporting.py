"""The export stage, cached by the module's weights and code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import torch

from mmtrt.artifacts import place, read_json, whole_directory, write_json
from mmtrt.errors import InputError
from mmtrt.export.exporter import ExportOptions, export_model
from mmtrt.export.sources import Source
from mmtrt.pipeline.context import Context
from mmtrt.results import plain
from mmtrt.tensors import ModelSpec

__all__ = ["ExportResult", "export_stage", "export_view", "publish_export"]

_RESULT = "result.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """Where an export's files are, what it proved, and what it warned of."""

    onnx: Path
    calibration: Path
    golden: Path
    spec: ModelSpec
    verified: tuple[Mapping[str, Any], ...]
    warnings: tuple[str, ...]
    cached: bool

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
            "warnings": list(self.warnings),
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
        "options": plain(asdict(options)),
        "versions": [torch.__version__, onnx.__version__],
    }

    def work(folder: Path) -> None:
        made = export_model(source, folder, options)
        result = {
            "spec": made.spec.to_json(),
            "verified": [asdict(row) for row in made.verified],
            "warnings": list(made.warnings),
        }
        write_json(folder / _RESULT, plain(result))

    folder, cached = context.cache.run("export", parts, work)
    found = read_json(folder / _RESULT)
    for text in found["warnings"]:
        context.note(text)
    return ExportResult(
        onnx=folder / f"{source.name}.onnx",
        calibration=folder / f"{source.name}.calib",
        golden=folder / f"{source.name}.golden",
        spec=ModelSpec.from_json(found["spec"]),
        verified=tuple(found["verified"]),
        warnings=tuple(found["warnings"]),
        cached=cached,
    )


def publish_export(result: ExportResult, folder: Path, name: str) -> ExportResult:
    """Put an export's files where the user wants them, each whole or not at all."""
    published = {
        "onnx": place(result.onnx, folder / f"{name}.onnx"),
        "calibration": _place_folder(result.calibration, folder / f"{name}.calib"),
        "golden": _place_folder(result.golden, folder / f"{name}.golden"),
    }
    data = result.onnx.with_name(f"{result.onnx.name}.data")
    if data.exists():
        place(data, folder / data.name)
    return ExportResult(
        **published, spec=result.spec, verified=result.verified, warnings=result.warnings, cached=result.cached
    )


def export_view(result: ExportResult) -> dict[str, str]:
    """Return names and values for people."""
    shapes = "; ".join(
        f"{', '.join(f'{n} = {s}' for n, s in row['sizes'].items())}: off by at most {max(row['max_abs'].values()):.1e}"
        for row in result.verified
    )
    return {
        "ONNX": f"{result.onnx}  ({result.onnx.stat().st_size / 1e6:.2f} MB)",
        "inputs": "; ".join(map(str, result.spec.inputs)),
        "outputs": "; ".join(map(str, result.spec.outputs)),
        "ranges": ", ".join(f"{name} {a}..{b}..{c}" for name, (a, b, c) in result.spec.ranges.items()),
        "verified": shapes,
        "calibration": f"{result.calibration}  ({len(list(result.calibration.glob('*.npz')))} samples)",
        "golden": f"{result.golden}  ({len(list(result.golden.glob('*.npz')))} samples)",
        **({"cached": "nothing had changed, nothing was done"} if result.cached else {}),
    }


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


def _place_folder(source: Path, target: Path) -> Path:
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
