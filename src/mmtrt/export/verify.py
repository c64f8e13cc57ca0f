"""The exported graph against the module: ONNX Runtime must say what PyTorch says, at several shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmtrt.errors import ModelError
from mmtrt.export.shapes import Ranges, corner_sizes, example_sizes, resize
from mmtrt.export.sources import Source
from mmtrt.isolation import run_isolated
from mmtrt.runtimes.eager import EagerRunner
from mmtrt.runtimes.ort import OrtRunner
from mmtrt.tensors import Array

__all__ = ["TOLERANCE", "Verified", "verify"]

TOLERANCE = 1e-4
"""Largest difference, relative to the largest |value| of the output (at least 1): FP32 rounding over a deep graph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """One shape at which the graph agreed: the sizes, and the largest difference per output."""

    sizes: Mapping[str, int]
    max_abs: Mapping[str, float]


def verify(source: Source, path: Path, ranges: Ranges) -> list[Verified]:
    """Compare at the traced, the smallest and the largest shape; ModelError names the output that differs."""
    shapes: list[dict[str, int]] = []
    for sizes in (example_sizes(source), corner_sizes(ranges, 0), corner_sizes(ranges, 2)):
        inside = {name: min(max(size, ranges[name][0]), ranges[name][2]) for name, size in sizes.items()}
        if inside not in shapes:
            shapes.append(inside)
    feeds = [resize(source, sizes) for sizes in shapes]
    exported = run_isolated(_ort_outputs, path, feeds, what="ONNX Runtime on the exported model")
    runner = EagerRunner(source.module, source.inputs)
    return [
        _compare(source, sizes, list(runner.infer(feed).values()), got)
        for sizes, feed, got in zip(shapes, feeds, exported, strict=True)
    ]


def _ort_outputs(path: Path, feeds: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
    with OrtRunner(path, "parity") as runner:
        taken = {spec.name for spec in runner.inputs}
        return [runner.infer({n: a for n, a in feed.items() if n in taken}) for feed in feeds]


def _compare(source: Source, sizes: Mapping[str, int], wanted: Sequence[Array], got: Mapping[str, Array]) -> Verified:
    where = ", ".join(f"{name} = {size}" for name, size in sizes.items()) or "its fixed shape"
    if len(wanted) != len(got):
        raise ModelError(f"{source.reference}: the module has {len(wanted)} outputs, the exported graph {len(got)}")
    worst: dict[str, float] = {}
    for (name, array), reference in zip(got.items(), wanted, strict=True):
        if array.shape != reference.shape or array.dtype != reference.dtype:
            raise ModelError(
                f"{source.reference}: output {name!r} is {array.dtype} {array.shape} in the exported graph and "
                f"{reference.dtype} {reference.shape} in PyTorch, at {where}"
            )
        if not reference.size:
            worst[name] = 0.0
            continue
        both = np.isfinite(reference)
        if not np.array_equal(both, np.isfinite(array)):
            raise ModelError(
                f"{source.reference}: output {name!r} of the exported graph is not finite where PyTorch is, at {where}",
                fix="A softmax over a wholly masked row is the usual cause.",
            )
        difference = np.abs(array[both].astype(np.float64) - reference[both].astype(np.float64))
        scale = max(1.0, float(np.abs(reference[both], dtype=np.float64).max(initial=0.0)))
        worst[name] = float(difference.max(initial=0.0))
        if not worst[name] <= TOLERANCE * scale:
            raise ModelError(
                f"{source.reference}: output {name!r} of the exported graph is off by {worst[name]:.3g} at {where}",
                fix="The exporter took a branch that holds only for the traced sizes, or an operator differs.",
            )
    return Verified(sizes=dict(sizes), max_abs=worst)
