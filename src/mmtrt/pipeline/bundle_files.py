"""The files of a bundle, and its manifest: what the stages made, under names that tell of no machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import mmtrt
from mmtrt.artifacts import file_digest, read_json, write_json
from mmtrt.bundle.manifest import (
    SCHEMA,
    BundledEngine,
    BundledOnnx,
    BundledTarget,
    Entry,
    Manifest,
    TimingCache,
    check_name,
)
from mmtrt.engine import manifest as manifests
from mmtrt.engine.targets import Target
from mmtrt.errors import RecipeError
from mmtrt.export.sources import Source
from mmtrt.onnx_files import data_files, model_digest, open_model
from mmtrt.parity.stress_budget import split_budget
from mmtrt.pipeline.building import Prepared
from mmtrt.pipeline.engine_stage import TIMING
from mmtrt.pipeline.exporting import ExportResult
from mmtrt.pipeline.recipe_stages import budget_of
from mmtrt.recipe import Recipe, resolved
from mmtrt.results import CheckResult, plain, unplaced

__all__ = ["BuiltEngine", "Packing", "packed"]

Files = dict[str, Path]
GOLDEN = "golden"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltEngine:
    """An engine that is carried, its manifest beside it."""

    target: str
    precision: str
    path: Path

    @property
    def name(self) -> str:
        """Its name in the bundle."""
        return f"engines/{self.target}/{self.path.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """What goes into a bundle; `checks` are those of `models`, in their order, `golden` is a folder of samples."""

    recipe: Recipe
    exported: ExportResult
    source: Source
    models: Mapping[str, Prepared]
    targets: Mapping[str, tuple[str, Target]]
    engines: Sequence[BuiltEngine]
    checks: Sequence[CheckResult]
    golden: Path


def packed(packing: Packing, scratch: Path) -> tuple[Files, Manifest]:
    """Return the files by their names in the bundle, and the manifest that tells of them.

    What no stage wrote as it is to be is written to `scratch`, an empty folder. RecipeError where a name is none for a
    bundle.
    """
    try:
        return _packed(packing, scratch)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise RecipeError(
            f"a bundle can't be made of {packing.recipe.name}: {where}: {first['msg']}",
            fix="Names of files of weights are of letters, digits, '.', '-' and '_' there.",
        ) from error


def _packed(packing: Packing, scratch: Path) -> tuple[Files, Manifest]:
    files: Files = {}
    recipe = packing.recipe
    told = dict(zip(packing.models, packing.checks, strict=True))
    found = {
        "models": {p: _model(files, recipe, p, made, told[p]) for p, made in packing.models.items()},
        "targets": {
            name: BundledTarget(precision=recipe.bundled_precision(given), settings=target.model_dump(mode="json"))
            for name, (given, target) in packing.targets.items()
        },
        "engines": [_engine(files, engine, scratch) for engine in packing.engines],
        "timing_caches": [cache for engine in packing.engines if (cache := _timing(files, engine))],
        "golden": _golden(files, packing.golden),
        "preprocessing": _preprocessing(files, packing.source, scratch),
        "labels": _labels(files, packing.source, scratch),
    }
    manifest = Manifest.model_validate(
        {
            "schema": SCHEMA,
            "name": recipe.name,
            "version": recipe.bundle.version,
            "mmtrt": mmtrt.__version__,
            "files": {
                name: Entry(sha256=file_digest(path), bytes=path.stat().st_size) for name, path in sorted(files.items())
            },
            "spec": unplaced(packing.exported.spec.to_json()),
            "recipe": unplaced(plain(resolved(recipe))),
            "plugins": list(recipe.bundle.plugins),
            **found,
        }
    )
    return files, manifest


def _model(files: Files, recipe: Recipe, precision: str, made: Prepared, check: CheckResult) -> BundledOnnx:
    folder = f"models/{precision}"
    path = f"{folder}/{made.onnx.name}"
    files[path] = made.onnx
    # Proven to lie in the model's folder, behind no link.
    data = sorted(data_files(open_model(made.onnx), made.onnx) - {made.onnx.name})
    files |= {f"{folder}/{name}": made.onnx.parent / name for name in data}
    samples, _ = split_budget(budget_of(recipe, precision))
    return BundledOnnx(
        path=path,
        data=[f"{folder}/{name}" for name in data],
        digest=model_digest(made.onnx),
        # A few golden samples can't tell a drop of accuracy, and the hard cases were run before.
        budget={key: float(bound) for key, bound in samples.items() if not key.endswith("_drop")},
        calibration=unplaced(plain(made.summary.get("calibration"))),
        measured=unplaced(_measured(check)),
    )


def _measured(check: CheckResult) -> dict[str, Any]:
    """Return what a check says, without what differs from run to run; of hard cases the SQNR in dB alone."""
    row = check.to_json()
    return {
        "verdict": row["verdict"],
        "runs": check.candidate.runs,
        "against": {"what": check.reference.what, "runs": check.reference.runs},
        "samples": row["samples"],
        "sample_set": row["sample_set"],
        "outputs": row["outputs"],
        "stress": [
            {
                **{key: case[key] for key in ("kind", "name", "sizes", "verdict", "note")},
                "sqnr_db": {name: told.get("sqnr_db") for name, told in case["outputs"].items()},
            }
            for case in row["stress"]
        ],
    }


def _engine(files: Files, engine: BuiltEngine, scratch: Path) -> BundledEngine:
    told = manifests.verify(engine.path)
    manifest = scratch / f"{engine.target}.json"
    write_json(manifest, unplaced(read_json(manifests.manifest_path(engine.path))))
    files[engine.name] = engine.path
    files[f"{engine.name}.json"] = manifest
    portable = told.flavor == "tensorrt-rtx"
    asked = told.options.get("compute_capability")
    on = told.gpu if told.gpu and (not portable or asked == "CURRENT") else {}
    capability = on.get("compute_capability") or _capability(asked)
    return BundledEngine.model_validate(
        {
            "path": engine.name,
            "manifest": f"{engine.name}.json",
            "target": engine.target,
            "precision": engine.precision,
            "onnx": told.onnx_digest,
            "flavor": told.flavor,
            "flavor_version": told.flavor_version,
            "gpu": on.get("name"),
            "compute_capability": capability,
        }
    )


def _capability(asked: str | None) -> str | None:
    """Return `8.9` of TensorRT-RTX's `SM89`, None where it compiles for all that it is portable over."""
    digits = (asked or "").removeprefix("SM")
    return f"{digits[:-1]}.{digits[-1]}" if digits.isdecimal() and len(digits) > 1 else None


def _timing(files: Files, engine: BuiltEngine) -> TimingCache | None:
    path = engine.path.with_name(TIMING)
    told = manifests.read(engine.path)
    if not path.is_file() or told.gpu is None:
        return None
    name = f"timing/{engine.target}.cache"
    files[name] = path
    return TimingCache.model_validate(
        {
            "path": name,
            "flavor": told.flavor,
            "flavor_version": told.flavor_version,
            "gpu": told.gpu["name"],
            "compute_capability": told.gpu["compute_capability"],
        }
    )


def _golden(files: Files, folder: Path) -> str:
    files |= {f"{GOLDEN}/{path.name}": path for path in sorted(folder.iterdir())}
    return GOLDEN


def _preprocessing(files: Files, source: Source, scratch: Path) -> str | None:
    """Add how inputs are made of pictures and text, where the source tells it."""
    if source.preprocessing is None:
        return None
    name = "preprocessing.json"
    files[name] = scratch / name
    files[name].write_bytes(source.preprocessing.to_bytes())
    return name


def _labels(files: Files, source: Source, scratch: Path) -> dict[str, str]:
    """Add the names of classes, where the source tells them."""
    labels: dict[str, str] = {}
    for index, (output, names) in enumerate(sorted(source.labels.items())):
        labels[output] = _label_file(output, index)
        path = scratch / f"labels-{index}.json"
        write_json(path, list(names))
        files[labels[output]] = path
    return labels


def _label_file(output: str, index: int) -> str:
    """Return `labels/<output>.json`, or a number for an output whose name a file can't have."""
    try:
        return check_name(f"labels/{output}.json")
    except ValueError:
        return f"labels/{index}.json"
