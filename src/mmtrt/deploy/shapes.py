"""The sizes that an engine takes: a model's ranges, or the one shape that a DLA core takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mmtrt.engine.targets import Target
from mmtrt.samples import Sample
from mmtrt.tensors import ModelSpec, Profile, ShapeRange

__all__ = ["fitting", "profile_for"]


def profile_for(spec: ModelSpec, target: Target) -> dict[str, ShapeRange]:
    """Return the profile to build with: for a DLA core the usual sizes of one event, else the model's ranges."""
    profile = spec.dynamic_profile()
    if target.dla_core is None:
        return profile
    firsts = {tensor.name for tensor in spec.inputs if tensor.shape and isinstance(tensor.shape[0], str)}
    return {name: _fixed(span, one_event=name in firsts) for name, span in profile.items()}


def _fixed(span: ShapeRange, *, one_event: bool) -> ShapeRange:
    shape = (span.min[0], *span.opt[1:]) if one_event else span.opt
    return ShapeRange(min=shape, opt=shape, max=shape)


def fitting(samples: Iterable[Sample], profile: Profile) -> list[Sample]:
    """Return the samples, without a batch axis, whose inputs a profile takes."""
    return [sample for sample in samples if _within(sample, profile)]


def _within(sample: Sample, profile: Mapping[str, ShapeRange]) -> bool:
    return all(
        len(span.min) == sample[name].ndim + 1
        and all(
            low <= size <= high for low, size, high in zip(span.min[1:], sample[name].shape, span.max[1:], strict=True)
        )
        for name, span in profile.items()
    )
