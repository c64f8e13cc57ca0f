"""Bundles and deployments made by hand, of files that are there: what a session opens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmtrt import __version__
from mmtrt.artifacts import file_digest
from mmtrt.bundle.archive import write_bundle
from mmtrt.bundle.manifest import Manifest
from mmtrt.results import DeployResult

__all__ = ["engine_row", "make_bundle", "make_deployment"]


def engine_row(engine: Path, **told: Any) -> dict[str, Any]:
    """What a bundle's manifest says of an engine that was built for the emulated GPU, but for what is told."""
    return {
        "path": f"engines/{engine.name}",
        "manifest": f"engines/{engine.name}.json",
        "target": "board",
        "precision": "fp32",
        "onnx": file_digest(engine),
        "flavor": "tensorrt",
        "flavor_version": "10.16.0",
        "gpu": "Emulated GPU (software, times mean nothing)",
        "compute_capability": "8.7",
        **told,
    }


def make_bundle(
    out: Path,
    onnx: Path,
    *,
    engines: Mapping[Path, Mapping[str, Any]] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    labels: Mapping[str, Sequence[str]] | None = None,
    targets: Mapping[str, str] | None = None,
    plugins: Sequence[str] = (),
    tar: bool = True,
) -> Path:
    """Write a bundle of one ONNX, in FP32, and of the engines with their rows; return its path."""
    scratch = out.with_name(f"{out.name}.scratch")
    scratch.mkdir()
    files = {"models/model.onnx": onnx, "golden/0.json": _json(scratch / "golden.json", {})}
    for engine in engines or {}:
        files |= {f"engines/{engine.name}": engine, f"engines/{engine.name}.json": Path(f"{engine}.json")}
    if preprocessing is not None:
        files["preprocessing.json"] = _json(scratch / "preprocessing.json", preprocessing)
    for output, names in (labels or {}).items():
        files[f"labels/{output}.json"] = _json(scratch / f"{output}.json", names)
    targets = targets or {"board": "fp32"}
    manifest = {
        "schema": "mmtrt.bundle/1",
        "name": "tiny",
        "version": "1.0",
        "mmtrt": __version__,
        "files": {name: {"sha256": file_digest(file), "bytes": file.stat().st_size} for name, file in files.items()},
        "spec": {},
        "recipe": {},
        "models": {
            precision: {"path": "models/model.onnx", "digest": file_digest(onnx)} for precision in targets.values()
        },
        "targets": {name: {"precision": precision, "settings": {}} for name, precision in targets.items()},
        "golden": "golden",
        "engines": list((engines or {}).values()),
        "plugins": list(plugins),
        "preprocessing": None if preprocessing is None else "preprocessing.json",
        "labels": {output: f"labels/{output}.json" for output in labels or {}},
    }
    write_bundle(out, files, Manifest.model_validate(manifest), None, tar=tar)
    shutil.rmtree(scratch)
    return out


def make_deployment(folder: Path, onnx: Path, engine: Path, **bundle: Any) -> Path:
    """Write a deployment of an engine, as a deploy leaves it; return its directory."""
    version = folder / "versions" / "0001-tiny-1.0-0123456789ab"
    version.mkdir(parents=True)
    make_bundle(version / "bundle", onnx, tar=False, **bundle)
    shutil.copyfile(engine, version / "model.engine")
    shutil.copyfile(f"{engine}.json", version / "model.engine.json")
    told = DeployResult(
        state="deployed",
        directory=str(folder),
        name="tiny",
        version="1.0",
        digest=(version / "bundle" / "bundle.sha256").read_text(encoding="utf-8").strip(),
        version_directory=version.name,
        target="board",
        engine_sha256=file_digest(engine),
        manifest_sha256=file_digest(version / "model.engine.json"),
    )
    _json(version / "deployed.json", told.to_json())
    (folder / "current").symlink_to(Path("versions") / version.name)
    return folder


def _json(path: Path, data: Any) -> Path:
    path.write_text(json.dumps(data), encoding="utf-8")
    return path
