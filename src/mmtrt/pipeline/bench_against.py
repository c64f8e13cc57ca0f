"""PyTorch in a benchmark: the module that the files were exported from, as it stands and compiled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from mmtrt.bench.contenders import TORCH_KINDS, Contender, MakeTorchContender, TorchKind
from mmtrt.errors import InputError, UsageError
from mmtrt.pipeline.sides import Subject, is_source
from mmtrt.runtimes.cuda import gpu
from mmtrt.runtimes.tensorrt_api import manifest_data

__all__ = ["source_of", "torch_contenders", "torch_kinds", "torch_precision"]


def torch_kinds(names: Sequence[str]) -> tuple[TorchKind, ...]:
    """Return what `--against` names; UsageError for what is unknown or named twice."""
    known = {str(kind): kind for kind in TORCH_KINDS}
    for name in names:
        if name not in known:
            raise UsageError(
                f"--against takes {' or '.join(known)}, not {name!r}", fix="Files stand beside each other."
            )
    if len(set(names)) < len(names):
        raise UsageError("--against names one thing twice", fix="Name each once.")
    return tuple(known[name] for name in names)


def torch_precision(name: str | None) -> Literal["fp32", "fp16"] | None:
    """Return PyTorch's precision, None where none is asked for; UsageError for another one."""
    known: dict[str | None, Literal["fp32", "fp16"] | None] = {None: None, "fp32": "fp32", "fp16": "fp16"}
    if name not in known:
        raise UsageError(f"PyTorch runs in fp32 or fp16, not {name!r}", fix="INT8 is what the files have.")
    return known[name]


def source_of(subjects: Sequence[Subject]) -> str:
    """Return the source that files were exported from; InputError where none tells it, or they tell several."""
    found = dict.fromkeys(filter(None, map(_source, subjects)))
    if len(found) > 1:
        raise InputError(f"the files are of several sources: {', '.join(found)}", fix="Name one with --source.")
    if not found:
        raise InputError("no file tells the source that it was exported from", fix="Name it with --source.")
    return next(iter(found))


def _source(subject: Subject) -> str:
    if is_source(subject.what) or subject.spec.source:
        return subject.spec.source or subject.what
    told = (manifest_data(Path(subject.what)) or {}).get("model") or {}
    return str(told.get("source") or "")


def torch_contenders(
    source: str, checkpoint: Path | None, kinds: Sequence[TorchKind], precision: Literal["fp32", "fp16"] | None
) -> list[Contender]:
    """Return PyTorch's contenders, in FP16 on a GPU and else in FP32 where no precision is asked for."""
    # What measures files alone needs no PyTorch.
    from mmtrt.pipeline import torch_sides

    make: MakeTorchContender = torch_sides.torch_contender
    chosen: Literal["fp32", "fp16"] = precision or ("fp16" if gpu() is not None else "fp32")
    made = {kind: make(source, checkpoint, kind, chosen) for kind in kinds}
    return [
        # On a CPU it computes in FP32, whatever was asked for.
        Contender(
            file=f"{source} {kind}",
            runner=runner,
            precision=getattr(runner, "precision", chosen),
            may_refuse=kind == "torch-compile" or chosen == "fp16",
        )
        for kind, runner in made.items()
    ]
