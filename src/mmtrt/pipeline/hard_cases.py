"""The hard cases of a check: from the samples at hand, what both sides tell of the model, and what calibration saw."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmtrt.parity.stress import StressCase, stress_cases
from mmtrt.parity.stress_budget import AGREEMENT, ALLOWANCE_DB, INVARIANCE_DB
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.sides import Subject
from mmtrt.results import plain
from mmtrt.samples import SampleSet, checked
from mmtrt.tensors import ModelSpec

__all__ = ["HardCases"]

_FEW = 32
"""Samples that the cases are made from: the first ones of the set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HardCases:
    """Which cases a check runs: their kinds, the model that they are cases of, and the ranges that calibration saw."""

    kinds: tuple[str, ...]
    spec: ModelSpec
    calibrated: Mapping[str, tuple[float, float]]

    @classmethod
    def of(cls, spec: ModelSpec, reference: Subject, candidates: Sequence[Subject], kinds: Sequence[str]) -> HardCases:
        """Return the cases for candidates whose spec is `spec`; what it does not know is taken from the reference."""
        spans: dict[str, tuple[float, float]] = {}
        for subject in candidates:
            for name, (low, high) in subject.calibrated.items():
                known = spans.get(name, (low, high))
                spans[name] = (min(low, known[0]), max(high, known[1]))
        return cls(kinds=tuple(kinds), spec=_completed(spec, reference.spec), calibrated=spans)

    def key(self) -> dict[str, Any]:
        """Return what the cases and their defaults depend on, as JSON data."""
        if not self.kinds:
            return {}
        told = {"kinds": self.kinds, "spec": self.spec.to_json(), "calibrated": self.calibrated}
        return {**plain(told), "defaults": plain([ALLOWANCE_DB, INVARIANCE_DB, AGREEMENT])}

    def made(self, context: Context, samples: SampleSet) -> Iterator[StressCase]:
        """Yield the cases; each kind is told as a stage."""
        if not self.kinds:
            return
        few = list(itertools.islice(checked(samples.inputs_only(), self.spec), _FEW))
        told = ""
        for case in stress_cases(self.spec, few, self.kinds, calibrated=self.calibrated):
            if case.named[0].kind != told:
                told = case.named[0].kind
                context.stage(f"stress: {told}")
            yield case


def _completed(spec: ModelSpec, other: ModelSpec) -> ModelSpec:
    names = {tensor.name for tensor in spec.inputs}
    dims = {dim for tensor in spec.inputs for dim in tensor.shape if isinstance(dim, str)}
    modalities = {m: tuple(n for n in inputs if n in names) for m, inputs in other.modalities.items()}
    return replace(
        spec,
        modalities=spec.modalities or modalities,
        ranges={**{dim: span for dim, span in other.ranges.items() if dim in dims}, **spec.ranges},
        limits={**{name: span for name, span in other.limits.items() if name in names}, **spec.limits},
        masks={**{name: value for name, value in other.masks.items() if name in names}, **spec.masks},
    )
