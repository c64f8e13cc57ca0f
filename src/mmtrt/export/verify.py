"""The exported graph against the module: ONNX Runtime must say what PyTorch says, at several shapes.

Each input shape is tried with all modalities there; the usual one also with each modality missing in turn: masked
where it has a mask, all zeros where it is made of numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmtrt.errors import ModelError
from mmtrt.export.findings import Finding, Tell
from mmtrt.export.shapes import Ranges, corner_sizes, example_sizes, resize
from mmtrt.export.sources import Source
from mmtrt.isolation import run_isolated
from mmtrt.runtimes.eager import EagerRunner
from mmtrt.runtimes.ort import run_feeds
from mmtrt.tensors import Array

__all__ = ["TOLERANCE", "Verified", "verify"]

TOLERANCE = 1e-4
"""Largest difference, relative to the largest |value| of the output (at least 1): FP32 rounding over a deep graph."""

_SURVIVE = (
    "An event without it can't be answered: let the mask fill with a finite number, torch.finfo(dtype).min say, divide "
    "by at least 1, and never feed such an event before that."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """One case in which the graph agreed: the sizes, the largest difference per output, and what was missing.

    `masked` names the modality that was missing, `zeros` its inputs that were zeros for want of a mask.
    """

    sizes: Mapping[str, int]
    max_abs: Mapping[str, float]
    masked: str | None = None
    zeros: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    sizes: Mapping[str, int]
    feeds: Mapping[str, Array]
    masked: str | None = None
    zeros: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        sizes = ", ".join(f"{name} = {size}" for name, size in self.sizes.items()) or "its fixed shape"
        how = f"{', '.join(self.zeros)} all zeros" if self.zeros else f"{self.masked} wholly masked"
        return f"{sizes}, {how}" if self.masked else sizes


def verify(source: Source, path: Path, ranges: Ranges, tell: Tell) -> list[Verified]:
    """Compare in each case; ModelError names the output that differs, `tell` hears where PyTorch itself gives up."""
    runner = EagerRunner(source.module, source.inputs)
    cases: list[_Case] = []
    wanted: list[list[Array]] = []
    for case in _cases(source, ranges):
        try:
            outputs = list(runner.infer(case.feeds).values())
        except Exception as error:
            if not case.masked:
                raise
            tell(_refuses(case, error))
            continue
        cases.append(case)
        wanted.append(outputs)
    feeds = [case.feeds for case in cases]
    exported = run_isolated(run_feeds, path, feeds, what="ONNX Runtime on the exported model")
    return [
        _compare(source, case, reference, got, tell)
        for case, reference, got in zip(cases, wanted, exported, strict=True)
    ]


def _cases(source: Source, ranges: Ranges) -> Iterator[_Case]:
    shapes: list[dict[str, int]] = []
    for sizes in (example_sizes(source), corner_sizes(ranges, 0), corner_sizes(ranges, 2)):
        inside = {name: min(max(size, ranges[name][0]), ranges[name][2]) for name, size in sizes.items()}
        if inside not in shapes:
            shapes.append(inside)
    for sizes in shapes:
        yield _Case(sizes=sizes, feeds=resize(source, sizes))
    feeds = resize(source, shapes[0])
    for modality, names in source.modalities.items():
        masks = {name: np.full_like(feeds[name], source.masks[name]) for name in names if name in source.masks}
        alone = bool(masks) or len(source.modalities) < 2
        zeros = {} if alone else {name: np.zeros_like(feeds[name]) for name in names if feeds[name].dtype.kind == "f"}
        if masks or zeros:
            yield _Case(sizes=shapes[0], feeds={**feeds, **masks, **zeros}, masked=modality, zeros=tuple(zeros))


def _refuses(case: _Case, error: Exception) -> Finding:
    return Finding(
        kind="missing modality",
        what=f"the module refuses an event with {case.where}: {type(error).__name__}: {error}",
        where=str(case.masked),
        fix=_SURVIVE,
    )


def _compare(source: Source, case: _Case, wanted: Sequence[Array], got: Mapping[str, Array], tell: Tell) -> Verified:
    if len(wanted) != len(got):
        raise ModelError(f"{source.reference}: the module has {len(wanted)} outputs, the exported graph {len(got)}")
    worst: dict[str, float] = {}
    for (name, array), reference in zip(got.items(), wanted, strict=True):
        if array.shape != reference.shape or array.dtype != reference.dtype:
            raise ModelError(
                f"{source.reference}: output {name!r} is {array.dtype} {array.shape} in the exported graph and "
                f"{reference.dtype} {reference.shape} in PyTorch, at {case.where}"
            )
        if not np.isfinite(reference).all():
            tell(_not_finite(name, case))
        worst[name] = _difference(source, case, name, array, reference)
    return Verified(sizes=dict(case.sizes), max_abs=worst, masked=case.masked, zeros=case.zeros)


def _not_finite(name: str, case: _Case) -> Finding:
    return Finding(
        kind="missing modality" if case.masked else "output not finite",
        what=f"output {name!r} of the module itself is not finite with {case.where}",
        where=name,
        fix=_SURVIVE if case.masked else "Right for scores that are masked with -inf; else look at the checkpoint.",
    )


def _difference(source: Source, case: _Case, name: str, array: Array, reference: Array) -> float:
    """Return the largest difference where PyTorch is finite; ModelError where it is too large, or no number."""
    if not reference.size:
        return 0.0
    both = np.isfinite(reference)
    same = np.array_equal(both, np.isfinite(array)) and (
        bool(both.all()) or np.array_equal(array[~both], reference[~both], equal_nan=True)
    )
    # A missing modality: where PyTorch itself gives NaN, there is nothing to agree with.
    if not (same or (case.masked and np.isfinite(array[both]).all())):
        raise ModelError(
            f"{source.reference}: output {name!r} of the exported graph is not finite where PyTorch is, or has "
            f"another infinity, at {case.where}",
            fix="A softmax over a wholly masked row is the usual cause.",
        )
    difference = np.abs(array[both].astype(np.float64) - reference[both].astype(np.float64))
    scale = max(1.0, float(np.abs(reference[both], dtype=np.float64).max(initial=0.0)))
    worst = float(difference.max(initial=0.0))
    if not worst <= TOLERANCE * scale:
        raise ModelError(
            f"{source.reference}: output {name!r} of the exported graph is off by {worst:.3g} at {case.where}",
            fix="The exporter took a branch that holds only for the traced sizes, or an operator differs.",
        )
    return worst
