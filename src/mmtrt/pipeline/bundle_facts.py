"""What is in a bundle, told once every byte of it was verified; it needs no extra."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmtrt.bundle.manifest import BundledOnnx, Manifest
from mmtrt.bundle.opening import verify
from mmtrt.errors import InputError
from mmtrt.results import plain
from mmtrt.tensors import ModelSpec

__all__ = ["bundle_facts_view", "inspect_bundle"]


def inspect_bundle(path: Path) -> dict[str, Any]:
    """Return what a bundle says of itself as JSON data of kind `bundle`; InputError where it is altered or unsafe."""
    opened = verify(path)
    told: dict[str, Any] = plain(opened.manifest.model_dump(mode="json", by_alias=True))
    return {
        "schema": "mmtrt.inspect/1",
        "kind": "bundle",
        "file": str(path),
        "form": "directory" if path.is_dir() else "file",
        "bytes": opened.size,
        "digest": opened.digest,
        "integrity": "matches",
        "signed": opened.signed,
        "manifest": told,
    }


def bundle_facts_view(found: Mapping[str, Any]) -> dict[str, str]:
    """Return names and values for people; InputError where parts that the manifest leaves open are not as written."""
    try:
        rows = _rows(found, Manifest.model_validate(found["manifest"]))
        # Whoever made it may be anybody: no text of it moves the cursor.
        return {_printable(name): _printable(value) for name, value in rows.items() if value}
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"the manifest of {found['file']} can't be shown: {type(error).__name__}: {error}"[:500],
            fix="It was made by another version of mmtrt: `mmtrt inspect --json` shows it as it is.",
        ) from error


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _rows(found: Mapping[str, Any], manifest: Manifest) -> dict[str, str]:
    spec = ModelSpec.from_json(manifest.spec)
    rows = {
        "bundle": f"{found['file']}  ({found['bytes'] / 1e6:.2f} MB, {len(manifest.files)} files, verified)",
        "version": f"{manifest.name} {manifest.version}, made by mmtrt {manifest.mmtrt}",
        "digest": found["digest"],
        "signature": "there; `mmtrt deploy` verifies it with its public key" if found["signed"] else "none",
        "source": spec.source,
        "inputs": "; ".join(map(str, spec.inputs)),
        "outputs": "; ".join(map(str, spec.outputs)),
        "ranges": ", ".join(f"{name} {a}..{b}..{c}" for name, (a, b, c) in spec.ranges.items()),
        "modalities": "; ".join(f"{name}: {', '.join(inputs)}" for name, inputs in spec.modalities.items()),
    }
    for precision, model in manifest.models.items():
        rows[precision] = _model(manifest, model)
    for name, target in manifest.targets.items():
        built = [engine for engine in manifest.engines if engine.target == name]
        carried = "; ".join(
            f"engine of {engine.flavor} {engine.flavor_version} for {engine.gpu or 'all GPUs that it supports'}, "
            f"{manifest.files[engine.path].bytes / 1e6:.2f} MB"
            for engine in built
        )
        rows[f"target {name}"] = f"{target.precision}; {carried or 'built on the board'}"
    golden = sum(name.startswith(f"{manifest.golden}/") and name.endswith(".npz") for name in manifest.files)
    rows["golden"] = f"{golden} samples with PyTorch's outputs"
    rows["preprocessing"] = manifest.preprocessing or ""
    rows["labels"] = ", ".join(manifest.labels)
    rows["timing caches"] = ", ".join(f"{cache.flavor_version} on {cache.gpu}" for cache in manifest.timing_caches)
    rows["plugins"] = ", ".join(manifest.plugins)
    return rows


def _model(manifest: Manifest, model: BundledOnnx) -> str:
    size = sum(manifest.files[name].bytes for name in (model.path, *model.data))
    told = [f"{size / 1e6:.2f} MB"]
    if model.measured:
        outputs = model.measured.get("outputs", {})
        worst = ", ".join(f"{name} {row['sqnr_db']:.1f} dB" for name, row in outputs.items() if row.get("sqnr_db"))
        told.append(f"parity {model.measured.get('verdict')} over {model.measured.get('samples')} samples: {worst}")
    if model.calibration:
        kind = "samples" if model.calibration["on_data"] else "random samples, no data,"
        told.append(f"calibrated on {model.calibration['samples']} {kind} of {model.calibration['source']}")
    return "; ".join(told)
