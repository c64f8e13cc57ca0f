"""Which samples of a set tell most of a fault: those on which two models differ most."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np

from mmtrt.pipeline.sides import Subject
from mmtrt.samples import Batch, Sample, SampleSet, batches, checked
from mmtrt.tensors import Array

__all__ = ["telling_samples"]

_LOOKED_AT = 64
"""The check has run all of a set; its events that show a rare fault, say of a mask, are mostly more than one in 64."""
_BATCH = 16

Worst = dict[int, float]


def telling_samples(samples: SampleSet, sides: tuple[Subject, Subject], count: int) -> list[Sample]:
    """Return `count` of a set's first samples, those whose outputs differ most first; in their order where none does.

    A sample's difference is that of the output that differs most, as energy over the energy of that output over all
    samples; what is finite on one side alone differs by infinity.
    """
    spec = sides[1].spec
    looked_at = list(checked(itertools.islice(samples.inputs_only(), max(count, _LOOKED_AT)), spec))
    noise: dict[str, Worst] = {}
    signal: dict[str, float] = {}
    with sides[0].exact() as reference, sides[1].exact() as candidate:
        for batch in batches(looked_at, spec, size=_BATCH):
            told, got = (
                runner.infer({tensor.name: batch.feeds[tensor.name] for tensor in runner.inputs})
                for runner in (reference, candidate)
            )
            for name in told.keys() & got.keys():
                known = told[name][np.isfinite(told[name])].astype(np.float64)
                signal[name] = signal.get(name, 0.0) + float(known @ known)
                noise.setdefault(name, {}).update(_differences(batch, told[name], got[name]))
    worst = {index: _worst(index, noise, signal) for index in range(len(looked_at))}
    return [looked_at[index] for index in sorted(worst, key=lambda index: (-worst[index], index))[:count]]


def _differences(batch: Batch, told: Array, got: Array) -> Worst:
    """Return the energy of the difference by sample; of all of the batch where the rows are not its samples."""
    if told.shape != got.shape:
        return dict.fromkeys(batch.indices, math.inf)
    rows = len(batch.indices) if told.ndim and told.shape[0] == len(batch.indices) else 1
    one, other = (array.astype(np.float64).reshape(rows, -1) for array in (told, got))
    known = np.isfinite(one) & np.isfinite(other)
    energy = np.square(np.subtract(one, other, out=np.zeros_like(one), where=known)).sum(axis=1)
    energy[(np.isfinite(one) != np.isfinite(other)).any(axis=1)] = math.inf
    return dict(zip(batch.indices, itertools.cycle(map(float, energy)), strict=False))


def _worst(index: int, noise: Mapping[str, Worst], signal: Mapping[str, float]) -> float:
    shares = (errors[index] / signal[name] if errors[index] else 0.0 for name, errors in noise.items() if signal[name])
    return max(shares, default=0.0)
