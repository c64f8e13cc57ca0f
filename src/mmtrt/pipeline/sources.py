"""A PyTorch source on a side of a check or in a benchmark; apart, since nothing else there needs PyTorch."""

from __future__ import annotations

from pathlib import Path

import torch

from mmtrt.artifacts import key_of
from mmtrt.export.sources import Source, load_source
from mmtrt.pipeline.sides import Subject
from mmtrt.runtimes import Runner
from mmtrt.runtimes.eager import EagerRunner
from mmtrt.tensors import ModelSpec, array_digest

__all__ = ["module_subject", "source_subject"]


def source_subject(reference: str, checkpoint: Path | None = None) -> Subject:
    """Load a source, with a checkpoint's weights where one is given, and make a subject of it."""
    return module_subject(load_source(reference, checkpoint))


def module_subject(source: Source) -> Subject:
    """Make a subject of a source: eager PyTorch."""
    names = source.outputs

    def make() -> Runner:
        return EagerRunner(source.module, source.inputs, names)

    return Subject(
        what=source.reference,
        precision="fp32",
        spec=ModelSpec(
            inputs=source.inputs,
            outputs=(),
            modalities=source.modalities,
            ranges=source.ranges,
            masks=source.masks,
            source=source.reference,
            digest=source.digest,
            versions={"torch": torch.__version__},
        ),
        key=key_of({"digest": source.digest, "settings": _settings(source.module)}),
        exact=make,
        fast=make,
    )


def _settings(module: torch.nn.Module) -> dict[str, str]:
    """Return what a module computes with beside its weights and its code, which its digest tells: numbers, buffers.

    A factory may take an epsilon from a file, and a buffer that is not persistent is in no `state_dict`.
    """
    kept = module.state_dict().keys()
    loose = {
        # As bytes: NumPy has no bfloat16.
        f"{name} {buffer.dtype} {tuple(buffer.shape)}": buffer.detach().cpu().reshape(-1).view(torch.uint8).numpy()
        for name, buffer in module.named_buffers()
        if name not in kept
    }
    numbers = {
        f"{name}.{key}": repr(value)
        for name, part in module.named_modules()
        for key, value in vars(part).items()
        if not key.startswith("_") and _numbers(value)
    }
    return {**numbers, "buffers": array_digest(loose)}


def _numbers(value: object) -> bool:
    return isinstance(value, (bool, int, float)) or (isinstance(value, tuple) and all(map(_numbers, value)))
