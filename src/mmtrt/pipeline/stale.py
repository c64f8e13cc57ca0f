"""Engines that are older than what they are held to: their manifest names what they were built from."""

from __future__ import annotations

from pathlib import Path

from mmtrt.engine import manifest as manifests
from mmtrt.engine.manifest import Manifest
from mmtrt.onnx_files import model_digest, model_spec, open_model
from mmtrt.tensors import ModelSpec

__all__ = ["stale_file", "stale_source"]


def stale_file(engine: Path, against: str) -> str | None:
    """Say that an engine was built from another ONNX than the one of its name, beside it or as the reference.

    None where it was not, or where no such ONNX is there; InputError where the engine is not its manifest's.
    """
    manifest = manifests.verify(engine)
    name = engine.with_suffix(".onnx").name
    files = [engine.with_suffix(".onnx"), Path(against)]
    for file in files:
        if file.name == name and file.is_file() and model_digest(file) != manifest.onnx_digest:
            return f"stale: {engine} was built from another {file} than the one that is there now; build it again"
    return None


def stale_source(engine: Path, reference: ModelSpec, what: str) -> str | None:
    """Say that an engine comes from another state of the reference's source; None where it doesn't, or nobody tells."""
    built = _built_from(engine, manifests.read(engine))
    same = built is not None and built.source and built.source == reference.source
    if built is None or not same or not (built.digest and reference.digest) or built.digest == reference.digest:
        return None
    # The digest of a source tells PyTorch's version too: where that differs, nothing is known of weights and code.
    torch = built.versions.get("torch")
    if torch is None or torch != reference.versions.get("torch"):
        return None
    return (
        f"stale: {engine} was built from {built.source} before its weights or its code changed, {what} is after; "
        "export and build it again"
    )


def _built_from(engine: Path, manifest: Manifest) -> ModelSpec | None:
    """Return what the ONNX said of its source: by the manifest, else by the file of that name if it is the one."""
    if manifest.model is not None:
        told = manifest.model
        return ModelSpec(
            inputs=(), outputs=(), source=str(told["source"]), digest=str(told["digest"]), versions=told["versions"]
        )
    onnx = engine.with_suffix(".onnx")
    if onnx.is_file() and model_digest(onnx) == manifest.onnx_digest:
        return model_spec(open_model(onnx))
    return None
