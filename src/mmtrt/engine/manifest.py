"""What is known of an engine, in `<engine>.json` beside it; its layers are in `<engine>.layers.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmtrt.artifacts import file_digest, read_json, write_json
from mmtrt.engine.build import EngineBuild
from mmtrt.engine.profiles import NetworkTensor
from mmtrt.engine.table import Graph, int8_share, layer_table
from mmtrt.errors import InputError
from mmtrt.runtimes.tensorrt_api import MANIFEST_SCHEMA, check_digest, manifest_data, manifest_path
from mmtrt.tensors import ShapeRange

__all__ = ["Manifest", "layer_rows", "layers_path", "manifest_path", "read", "verify", "write"]

LAYERS_SCHEMA = "mmtrt.layers/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The manifest of an engine; digests are SHA-256 in hex, `gpu` None where it was built ahead of time.

    `recipe` is the resolved recipe with its digest, None where there was none; `model` says what the ONNX was exported
    from: `source`, `digest` and `versions`.
    """

    engine_digest: str
    onnx_digest: str
    flavor: str
    flavor_version: str
    precision: str
    inputs: tuple[NetworkTensor, ...]
    outputs: tuple[NetworkTensor, ...]
    profile: Mapping[str, ShapeRange]
    engine_bytes: int
    build_s: float
    gpu: Mapping[str, Any] | None = None
    calibration: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    layers: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    ran: bool = False
    recipe: Mapping[str, Any] | None = None
    model: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""

        def tensors(found: tuple[NetworkTensor, ...]) -> list[dict[str, Any]]:
            return [{"name": t.name, "dtype": t.dtype, "shape": list(t.shape)} for t in found]

        return {
            "schema": MANIFEST_SCHEMA,
            "engine": {"sha256": self.engine_digest, "bytes": self.engine_bytes},
            "onnx": {"sha256": self.onnx_digest},
            "flavor": self.flavor,
            "flavor_version": self.flavor_version,
            "gpu": dict(self.gpu) if self.gpu else None,
            "precision": self.precision,
            "calibration": dict(self.calibration) if self.calibration else None,
            "inputs": tensors(self.inputs),
            "outputs": tensors(self.outputs),
            "profile": {
                name: {"min": list(span.min), "opt": list(span.opt), "max": list(span.max)}
                for name, span in self.profile.items()
            },
            "options": dict(self.options),
            "build_s": self.build_s,
            "layers": dict(self.layers) if self.layers else None,
            "notes": list(self.notes),
            "ran": self.ran,
            "recipe": dict(self.recipe) if self.recipe else None,
            "model": dict(self.model) if self.model else None,
        }


def layers_path(engine: Path) -> Path:
    """`<engine>.layers.json`, beside the engine."""
    return engine.with_name(f"{engine.name}.layers.json")


def write(
    built: EngineBuild,
    *,
    onnx_digest: str,
    precision: str,
    calibration: Mapping[str, Any] | None = None,
    graph: Graph | None = None,
    model: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write the manifest, and the layers where they are known, beside a built engine; return the manifest.

    `graph` adds to the layers what the ONNX knows of them, `model` what it was exported from.
    """
    graph = graph or Graph()
    known = built.layers is not None and built.summary is not None
    summary = {**built.summary.to_json(), "int8_mac_share": int8_share(built.layers, graph)} if known else None  # type: ignore[union-attr, arg-type]
    manifest = Manifest(
        engine_digest=file_digest(built.engine),
        onnx_digest=onnx_digest,
        flavor=built.flavor,
        flavor_version=built.flavor_version,
        gpu=built.gpu.to_json() if built.gpu else None,
        precision=precision,
        calibration=calibration,
        inputs=built.inputs,
        outputs=built.outputs,
        profile=built.profile,
        options=built.options.to_json(),
        engine_bytes=built.engine_bytes,
        build_s=round(built.build_s, 3),
        layers=summary,
        notes=built.notes,
        model=model,
    )
    layers = layers_path(built.engine)
    if built.layers is None:
        # Those of an engine that stood here before.
        layers.unlink(missing_ok=True)
    else:
        write_json(layers, {"schema": LAYERS_SCHEMA, "layers": layer_table(built.layers, graph)})
    write_json(manifest_path(built.engine), manifest.to_json())
    return manifest


def read(engine: Path) -> Manifest:
    """Read the manifest beside an engine; InputError where it is missing or broken."""
    path = manifest_path(engine)
    data = manifest_data(engine)
    if data is None:
        raise InputError(f"there is no manifest {path}", fix="Copy it with the engine, or build the engine again.")
    try:
        return _from_json(data)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"{path} is broken: {type(error).__name__}: {error}", fix="Build the engine again.") from error


def _from_json(data: Mapping[str, Any]) -> Manifest:
    def tensors(rows: list[Mapping[str, Any]]) -> tuple[NetworkTensor, ...]:
        return tuple(NetworkTensor(name=r["name"], dtype=r["dtype"], shape=tuple(r["shape"])) for r in rows)

    return Manifest(
        engine_digest=str(data["engine"]["sha256"]),
        onnx_digest=str(data["onnx"]["sha256"]),
        flavor=str(data["flavor"]),
        flavor_version=str(data["flavor_version"]),
        gpu=data["gpu"],
        precision=str(data["precision"]),
        calibration=data["calibration"],
        inputs=tensors(data["inputs"]),
        outputs=tensors(data["outputs"]),
        profile={
            name: ShapeRange(min=tuple(span["min"]), opt=tuple(span["opt"]), max=tuple(span["max"]))
            for name, span in data["profile"].items()
        },
        options=dict(data["options"]),
        engine_bytes=int(data["engine"]["bytes"]),
        build_s=float(data["build_s"]),
        layers=data["layers"],
        notes=tuple(data["notes"]),
        ran=bool(data["ran"]),
        recipe=data.get("recipe"),
        model=_model(data.get("model")),
    )


def _model(row: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if row is None else {"source": row["source"], "digest": row["digest"], "versions": {**row["versions"]}}


def layer_rows(engine: Path) -> list[dict[str, Any]] | None:
    """Return the rows of `layer_table` that lie beside an engine, None where there are none; InputError if broken."""
    path = layers_path(engine)
    if not path.is_file():
        return None
    try:
        rows = read_json(path)["layers"]
        for row in rows:
            _ = {**row["inputs"][0]} if row["inputs"] else {}, row["kind"], row["nodes"], row["role"], row["precision"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is broken: {type(error).__name__}: {error}", fix="Build the engine again.") from error
    return [dict(row) for row in rows]


def verify(engine: Path) -> Manifest:
    """Read the manifest and prove that the engine is the one it tells of; InputError where it was altered."""
    manifest = read(engine)
    check_digest(engine, manifest.engine_digest)
    return manifest
