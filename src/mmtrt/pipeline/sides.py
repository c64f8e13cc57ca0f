"""What can stand on a side of a check or in a benchmark: a source, an ONNX, an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mmtrt.artifacts import file_digest
from mmtrt.engine import manifest as manifests
from mmtrt.engine.flavours import gpu
from mmtrt.errors import InputError, MachineError
from mmtrt.onnx_files import model_budget, model_digest, model_spec, open_model
from mmtrt.precision.converted import stored_precision
from mmtrt.runtimes import Runner
from mmtrt.runtimes.isolated import IsolatedOrtRunner
from mmtrt.runtimes.ort import OrtRunner
from mmtrt.runtimes.tensorrt import TensorRTRunner
from mmtrt.tensors import ModelSpec, TensorSpec

__all__ = ["ENGINE_SUFFIXES", "Subject", "cannot_run", "open_subject"]

ENGINE_SUFFIXES = {".engine", ".plan", ".trt"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Something that runs: what it is called, its precision and spec, and how to run it for parity or for speed.

    `budget` is the parity budget that it carries itself.
    """

    what: str
    precision: str
    spec: ModelSpec
    key: str
    exact: Callable[[], Runner]
    fast: Callable[[], Runner]
    budget: Mapping[str, float] = field(default_factory=dict)


def cannot_run(engine: Path) -> str | None:
    """Say why an engine can't run on this machine; None where it can, as far as is known before trying."""
    return None if gpu() is not None else f"no GPU on this machine: {engine.name} was built, not run"


def open_subject(text: str) -> Subject:
    """Open a source, an `.onnx` or an engine; MachineError where this machine can't run it."""
    path = Path(text)
    if path.suffix == ".onnx":
        return _onnx(path)
    if path.suffix in ENGINE_SUFFIXES:
        return _engine(path)
    if path.exists():
        raise InputError(
            f"{path} is no ONNX file and no engine", fix="Known are .onnx, .engine, .plan and .trt files, and sources."
        )
    if "/" in text or "\\" in text:
        raise InputError(f"there is no file {path}", fix="Check the path.")
    # What has no PyTorch in it needs none.
    from mmtrt.pipeline.sources import source_subject

    return source_subject(text)


def _onnx(path: Path) -> Subject:
    proto = open_model(path)
    return Subject(
        what=str(path),
        precision=stored_precision(proto),
        spec=model_spec(proto),
        key=model_digest(path),
        exact=lambda: IsolatedOrtRunner(path),
        fast=lambda: OrtRunner(path, "speed"),
        budget=model_budget(proto),
    )


def _engine(path: Path) -> Subject:
    if not path.is_file():
        raise InputError(f"there is no file {path}", fix="`mmtrt build` makes an engine.")
    manifest = manifests.verify(path)
    why = cannot_run(path)
    if why:
        raise MachineError(why, fix="Check the ONNX that it was built from, or run this where the GPU is.")
    spec = ModelSpec(
        inputs=tuple(TensorSpec(name=t.name, dtype=t.dtype, shape=t.shape) for t in manifest.inputs),
        outputs=tuple(TensorSpec(name=t.name, dtype=t.dtype, shape=t.shape) for t in manifest.outputs),
    )
    return Subject(
        what=str(path),
        precision=manifest.precision,
        spec=spec,
        key=file_digest(path),
        exact=lambda: TensorRTRunner(path),
        fast=lambda: TensorRTRunner(path),
    )
