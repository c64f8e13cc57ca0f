"""What each layer and each branch loses in INT8, measured one at a time on samples that did not calibrate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmtrt.errors import InputError, UsageError
from mmtrt.metrics import Comparison, TaskMetric, make_task_metric
from mmtrt.precision.convert import Conversion, Price
from mmtrt.precision.graph import MacNode, module_of
from mmtrt.precision.options import PrecisionOptions
from mmtrt.precision.switches import Switched
from mmtrt.samples import Batch, SampleSet, batches, checked, open_set, parted
from mmtrt.samples.random import RANDOM
from mmtrt.tensors import Array, branch_of

__all__ = ["LayerLoss", "Measured", "Probe", "Sensitivity", "opened_for_judging", "sensitivity"]

JUDGING_EVERY = 4
"""Every so manieth sample judges; the others calibrate."""
_JUDGES_AT_MOST = 64
_LOOKS = 8
"""Samples on which a single layer is looked at: its noise is an average over thousands of elements already."""
_FLOOR = 1e-30

Answers = Callable[[Batch], Mapping[str, Array]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerLoss:
    """What one layer, or one branch of them, does to each output when it alone is INT8.

    `mac_share` is of all multiply-accumulates of the model; `sqnr_db` is None for an output that it does not reach.
    """

    name: str
    module: str
    branch: str
    layers: int
    mac_share: float
    sqnr_db: Mapping[str, float | None]
    largest: float = 0.0
    """The largest |input| of these layers that calibration showed."""
    noise: float = 0.0
    """Noise power relative to the signal, in the output where it is largest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """Layers and branches, the most sensitive first; `inferences` is the cost in passes over the whole set."""

    layers: tuple[LayerLoss, ...]
    branches: tuple[LayerLoss, ...]
    samples: int
    inferences: float
    wall_s: float
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Return `mmtrt.sensitivity/1`."""
        return {"schema": "mmtrt.sensitivity/1", **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Outputs of one placement against FP32: comparisons by output, and task metrics' drops by output and metric."""

    outputs: Mapping[str, Comparison]
    drops: Mapping[str, Mapping[str, float]]


class Probe:
    """Tries placements on samples that did not calibrate, and counts what that costs."""

    def __init__(
        self, conversion: Conversion, judging: Sequence[Batch], tasks: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self.switched = Switched(conversion.model, conversion.plan, conversion.tuned(), conversion.folder)
        self._heads = conversion.spec.heads
        self._tasks = tasks or {}
        self._judging = judging
        self.samples_run = 0
        self._told = [self._run(batch, ()) for batch in judging]

    def measured(self, on: Collection[int], parts: Sequence[int] | None = None) -> Measured:
        """Return what a placement does on all judging batches, or on some of them."""
        places = range(len(self._judging)) if parts is None else parts
        told = {id(self._judging[i]): self._told[i] for i in places}
        chosen = [self._judging[i] for i in places]
        return self.compared(lambda batch: told[id(batch)], lambda batch: self._run(batch, on), chosen)

    def compared(self, reference: Answers, candidate: Answers, chosen: Sequence[Batch] | None = None) -> Measured:
        """Return how two functions from batch to outputs differ over the judging batches."""
        outputs = {name: Comparison(self._heads.get(name, "")) for name in self.switched.outputs}
        told, got = (
            {head: {name: make_task_metric(name) for name in names} for head, names in self._tasks.items()}
            for _ in range(2)
        )
        for batch in self._judging if chosen is None else chosen:
            truth, answer = reference(batch), candidate(batch)
            for name, comparison in outputs.items():
                comparison.add(truth[name], answer[name])
            _count(told, truth, batch.labels)
            _count(got, answer, batch.labels)
        drops = {
            head: {f"{name}_drop": metric.value - got[head][name].value for name, metric in metrics.items()}
            for head, metrics in told.items()
        }
        return Measured(outputs=outputs, drops=drops)

    def looks(self) -> list[int]:
        """Return the first batches that hold enough samples to look at a single layer."""
        seen, chosen = 0, []
        for index, batch in enumerate(self._judging):
            if seen < _LOOKS:
                chosen.append(index)
                seen += len(batch.indices)
        return chosen

    def halves(self) -> tuple[list[int], list[int]]:
        """Return the judging batches in two halves, of alternating batches; both the whole where there is one."""
        every = list(range(len(self._judging)))
        return (every[::2], every[1::2]) if len(every) > 1 else (every, every)

    def _run(self, batch: Batch, on: Collection[int]) -> dict[str, Array]:
        self.samples_run += len(batch.indices)
        return self.switched.run(batch.feeds, on)


def _count(
    metrics: Mapping[str, Mapping[str, TaskMetric]], outputs: Mapping[str, Array], labels: Mapping[str, Array]
) -> None:
    for head, wanted in metrics.items():
        for name, metric in wanted.items():
            try:
                metric.add(outputs[head], labels[head])
            except ValueError as error:
                raise InputError(
                    f"{name} of output {head!r}: {error}",
                    fix="Hold the output to a metric that is meant for its shape.",
                ) from None


def opened_for_judging(
    source: Path,
    options: PrecisionOptions,
    samples: str,
    count: int | None,
    ranges: Mapping[str, tuple[int, int, int]] | None,
    note: Callable[[str], None],
    price: Price | None = None,
) -> tuple[Conversion, list[Batch], int]:
    """Open a conversion that calibrates on three quarters of a set; and return the others in batches, and all's count.

    UsageError for random samples. Of a set of fewer than 16 samples all do both, with a note.
    """
    if samples == RANDOM:
        raise UsageError(
            "what INT8 loses on random numbers says nothing about the model", fix="Name a set of real samples."
        )
    whole = open_set(samples, count=count)
    total = sum(1 for _ in whole.inputs_only())
    calibrating: SampleSet = whole
    judging: SampleSet = whole
    if total >= 4 * JUDGING_EVERY:
        calibrating, judging = parted(whole, JUDGING_EVERY, at_most=_JUDGES_AT_MOST)
    else:
        note(f"only {total} samples: the same ones calibrate and judge")
    conversion = Conversion.opened(source, options, samples=calibrating, ranges=ranges, price=price, note=note)
    conversion.prepare()
    if not conversion.plan.nodes:
        raise UsageError("the model is quantised already", fix="Start from the FP32 ONNX.")
    shown = list(batches(checked(judging, conversion.spec), conversion.spec, size=_LOOKS))
    return conversion, shown, total


def sensitivity(
    source: Path,
    options: PrecisionOptions,
    *,
    samples: str,
    count: int | None = None,
    ranges: Mapping[str, tuple[int, int, int]] | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Sensitivity:
    """Measure what each layer that `options` would make INT8, and each branch of them, loses alone.

    Errors are those of `convert`.
    """
    start = time.perf_counter()
    conversion, judging, total = opened_for_judging(source, options, samples, count, ranges, note)
    probe = Probe(conversion, judging)
    layers = losses(conversion, probe)
    groups: dict[str, list[int]] = {}
    for index, mac in enumerate(conversion.plan.nodes):
        groups.setdefault(branch_of(module_of(mac.node)), []).append(index)
    branches = [_loss(conversion, probe, members, name=name) for name, members in groups.items()]
    return Sensitivity(
        layers=tuple(sorted(layers, key=lambda loss: -loss.noise)),
        branches=tuple(sorted(branches, key=lambda loss: -loss.noise)),
        samples=sum(len(batch.indices) for batch in judging),
        inferences=probe.samples_run / total,
        wall_s=time.perf_counter() - start,
        notes=tuple(conversion.notes),
    )


def losses(conversion: Conversion, probe: Probe) -> list[LayerLoss]:
    """Return what each planned layer loses alone, in the plan's order."""
    return [_loss(conversion, probe, [index]) for index in range(len(conversion.plan.nodes))]


def _loss(conversion: Conversion, probe: Probe, members: Sequence[int], name: str | None = None) -> LayerLoss:
    told = probe.measured(set(members), probe.looks())
    nodes = [conversion.plan.nodes[index] for index in members]
    total = sum(mac.macs for mac in conversion.macs)
    module = module_of(nodes[0].node)
    noise = {output: one.rel_l2**2 for output, one in told.outputs.items()}
    return LayerLoss(
        name=name or nodes[0].name,
        module=name or module,
        branch=branch_of(module),
        layers=len(members),
        mac_share=sum(mac.macs for mac in nodes) / total if total else 0.0,
        sqnr_db={output: one.sqnr_db if math.isfinite(one.sqnr_db) else None for output, one in told.outputs.items()},
        largest=max((_range(conversion, mac, index) for mac in nodes for index in mac.activations), default=0.0),
        noise=max(max(noise.values(), default=0.0), _FLOOR),
    )


def _range(conversion: Conversion, mac: MacNode, index: int) -> float:
    value = mac.node.inputs[index]
    return conversion.seen.amax.get(value.name or "", 0.0) if value is not None else 0.0
