"""What can stand on a side of a check or in a benchmark: a source, an ONNX, an engine; of a check saved outputs too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmtrt.artifacts import file_digest
from mmtrt.engine import manifest as manifests
from mmtrt.engine.flavours import gpu
from mmtrt.errors import InputError, MachineError
from mmtrt.onnx_files import model_budget, model_digest, model_spec, open_model
from mmtrt.parity.budget import layered
from mmtrt.parity.stress_budget import split_budget
from mmtrt.parts.manifest import SUFFIX
from mmtrt.pipeline.reached import reached_budget
from mmtrt.pipeline.saved import Saved, is_saved, open_saved
from mmtrt.precision.converted import stored_precision, stored_summary
from mmtrt.runtimes import Runner
from mmtrt.runtimes.isolated import IsolatedOrtRunner
from mmtrt.runtimes.ort import OrtRunner
from mmtrt.runtimes.tensorrt import TensorRTRunner
from mmtrt.tensors import ModelSpec, TensorSpec

__all__ = ["ENGINE_SUFFIXES", "Subject", "cannot_run", "engine_spec", "is_source", "open_subject"]

ENGINE_SUFFIXES = {".engine", ".plan", ".trt"}
_SOURCES = ("hf:", "zoo:")
"""What comes behind these is no file on a side, though it may be written as one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Something that runs: what it is called, its precision and spec, and how to run it for parity or for speed.

    `budget` is the parity budget that it carries itself, `calibrated` the ranges of its float inputs that its
    calibration saw, where it tells them. `saved` holds outputs of what ran elsewhere, `note` who ran it: those answer
    only once they are paired with samples.
    """

    what: str
    precision: str
    spec: ModelSpec
    key: str
    exact: Callable[[], Runner]
    fast: Callable[[], Runner]
    budget: Mapping[str, float] = field(default_factory=dict)
    calibrated: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    saved: Saved | None = None
    note: str = ""


def cannot_run(engine: Path) -> str | None:
    """Say why an engine can't run on this machine; None where it can, as far as is known before trying."""
    return None if gpu() is not None else f"no GPU on this machine: {engine.name} was built, not run"


def is_source(text: str) -> bool:
    """Tell whether a side names a source of a module, and no file."""
    return text.startswith(_SOURCES) or not (Path(text).suffix in {".onnx", *ENGINE_SUFFIXES} or is_saved(text))


def open_subject(text: str, checkpoint: Path | None = None) -> Subject:
    """Open a source, an `.onnx`, an engine or saved outputs; MachineError where this machine can't run it.

    `checkpoint` holds weights for a source; files have their own.
    """
    path = Path(text)
    if not text.startswith(_SOURCES):
        _check_no_pipeline(text)
    if not is_source(text):
        if path.suffix == ".onnx":
            return _onnx(path)
        return _engine(path) if path.suffix in ENGINE_SUFFIXES else _saved(text)
    if not text.startswith(_SOURCES):
        _check_no_file(text)
    # What has no PyTorch in it needs none.
    from mmtrt.pipeline.sources import source_subject

    return source_subject(text, checkpoint)


def _check_no_pipeline(text: str) -> None:
    if text.endswith(SUFFIX) and Path(text).is_file():
        raise InputError(
            f"{text} is a pipeline, and one model is wanted",
            fix="`mmtrt run` of its recipe judges and measures it end to end; the files of its parts may stand here.",
        )


def _check_no_file(text: str) -> None:
    if Path(text).exists():
        raise InputError(
            f"{text} is no ONNX file and no engine",
            fix="Known are .onnx, .engine, .plan and .trt, sources, and outputs saved as .npz, .safetensors or .json.",
        )
    if "/" in text or "\\" in text:
        raise InputError(f"there is no file {text}", fix="Check the path.")


def _onnx(path: Path) -> Subject:
    proto = open_model(path)
    spec, precision = model_spec(proto), stored_precision(proto)
    samples, stress = split_budget(model_budget(proto))
    names = [tensor.name for tensor in spec.outputs]
    return Subject(
        what=str(path),
        precision=precision,
        spec=spec,
        key=model_digest(path),
        exact=lambda: IsolatedOrtRunner(path),
        fast=lambda: OrtRunner(path, "speed"),
        budget={**layered(samples, reached_budget(proto, precision), names), **stress},
        calibrated=_calibrated(stored_summary(proto).get("calibration")),
    )


def _saved(text: str) -> Subject:
    saved = open_saved(text)

    def refuse() -> Runner:
        raise InputError(
            f"{text} holds saved outputs: nothing can be run", fix="They may stand on a side of `mmtrt check`."
        )

    return Subject(
        what=text,
        precision=saved.precision,
        spec=saved.spec,
        key=saved.key,
        exact=refuse,
        fast=refuse,
        budget=saved.budget,
        saved=saved,
        note=saved.note,
    )


def _calibrated(record: Mapping[str, Any] | None) -> dict[str, tuple[float, float]]:
    """The ranges of float inputs in a calibration's record; one of an earlier version has none."""
    spans = (record or {}).get("inputs") or {}
    return {str(name): (float(low), float(high)) for name, (low, high) in spans.items()}


def _engine(path: Path) -> Subject:
    if not path.is_file():
        raise InputError(f"there is no file {path}", fix="`mmtrt build` makes an engine.")
    manifest = manifests.verify(path)
    why = cannot_run(path)
    if why:
        raise MachineError(why, fix="Check the ONNX that it was built from, or run this where the GPU is.")
    return Subject(
        what=str(path),
        precision=manifest.precision,
        spec=engine_spec(manifest),
        key=file_digest(path),
        exact=lambda: TensorRTRunner(path),
        fast=lambda: TensorRTRunner(path),
        calibrated=_calibrated(manifest.calibration),
    )


def engine_spec(manifest: manifests.Manifest) -> ModelSpec:
    """Return what an engine takes and gives, and the ranges of its profile."""
    return ModelSpec(
        inputs=tuple(TensorSpec(name=t.name, dtype=t.dtype, shape=t.shape) for t in manifest.inputs),
        outputs=tuple(TensorSpec(name=t.name, dtype=t.dtype, shape=t.shape) for t in manifest.outputs),
        ranges=_profiled(manifest),
    )


def _profiled(manifest: manifests.Manifest) -> dict[str, tuple[int, int, int]]:
    """The ranges of the sizes that an engine's inputs name, as its profile has them."""
    ranges = {}
    for tensor in manifest.inputs:
        span = manifest.profile.get(tensor.name)
        for axis, dim in enumerate(tensor.shape if span is not None else ()):
            if isinstance(dim, str) and span is not None:
                ranges[dim] = (span.min[axis], span.opt[axis], span.max[axis])
    return ranges
