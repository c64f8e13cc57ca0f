"""A PyTorch source on a side of a check or in a benchmark; apart, since nothing else there needs PyTorch."""

from __future__ import annotations

from mmtrt.export.sources import Source, load_source
from mmtrt.pipeline.sides import Subject
from mmtrt.runtimes import Runner
from mmtrt.runtimes.eager import EagerRunner
from mmtrt.tensors import ModelSpec

__all__ = ["module_subject", "source_subject"]


def source_subject(reference: str) -> Subject:
    """Load a source and make a subject of it."""
    return module_subject(load_source(reference))


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
            source=source.reference,
            digest=source.digest,
        ),
        key=source.digest,
        exact=make,
        fast=make,
    )
