"""What a bundle's model takes: its spec, its ranges, or the one shape that a DLA core takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mmtrt.engine.targets import Target
from mmtrt.errors import InputError
from mmtrt.metrics.heads import KINDS, UNKNOWN
from mmtrt.samples import Sample
from mmtrt.tensors import ModelSpec, Profile, ShapeRange

__all__ = ["fitting", "profile_for", "spec_of"]

_Size = Annotated[int, Field(ge=0, le=2**31 - 1)]


class _Tensor(BaseModel):
    model_config = ConfigDict(strict=True)

    name: Annotated[str, Field(min_length=1)]
    dtype: str
    shape: list[_Size | str]

    @field_validator("dtype")
    @classmethod
    def _numpy(cls, dtype: str) -> str:
        try:
            np.dtype(dtype)
        except TypeError as error:
            raise ValueError(f"{dtype!r} is no type of numpy's") from error
        return dtype


class _Spec(BaseModel):
    """What `ModelSpec.to_json` writes, by its types: anybody may have written a bundle's."""

    model_config = ConfigDict(strict=True)

    inputs: Annotated[list[_Tensor], Field(min_length=1)]
    outputs: Annotated[list[_Tensor], Field(min_length=1)]
    modalities: dict[str, list[str]] = {}
    ranges: dict[str, Annotated[list[_Size], Field(min_length=3, max_length=3)]] = {}
    limits: dict[str, Annotated[list[int], Field(min_length=2, max_length=2)]] = {}
    masks: dict[str, int] = {}
    heads: dict[str, str] = {}
    source: str = ""
    digest: str = ""
    versions: dict[str, str] = {}

    @field_validator("heads")
    @classmethod
    def _kinds(cls, heads: dict[str, str]) -> dict[str, str]:
        if unknown := sorted(set(heads.values()) - {UNKNOWN, *KINDS}):
            raise ValueError(f"{unknown[0]!r} is no kind of output that mmtrt knows")
        return heads


def spec_of(told: Mapping[str, Any]) -> ModelSpec:
    """Return the spec that a bundle's manifest has; InputError where it is none, or a size has no range."""
    try:
        spec = ModelSpec.from_json(_Spec.model_validate(dict(told)).model_dump())
        spec.profile()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"the bundle's spec: {where}: {first['msg']}"[:500], fix="Make the bundle again.") from error
    except KeyError as error:
        raise InputError(
            f"the bundle's spec has no range for the size {error}", fix="Make the bundle again."
        ) from error
    return spec


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
