"""What an engine says and how fast it is, measured in a process of its own: a crash there harms nothing."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmtrt.bench.contenders import Contender
from mmtrt.bench.measure import measure
from mmtrt.deploy.shapes import fitting
from mmtrt.errors import InputError, SampleError, UsageError
from mmtrt.isolation import run_isolated
from mmtrt.parity.budget import PHRASES, out_of_bound
from mmtrt.parity.compare import Side, compare
from mmtrt.parity.stress_budget import split_budget
from mmtrt.parity.verdict import whole_verdict
from mmtrt.results import BenchRow, CheckResult, OutputResult
from mmtrt.runtimes.saved import SavedRunner
from mmtrt.runtimes.tensorrt import TensorRTRunner
from mmtrt.samples import (
    OUTPUT,
    Sample,
    SampleSet,
    batches,
    check_npz,
    checked,
    largest_batch,
    open_set,
    split_label,
    with_prefix,
)
from mmtrt.samples.npz import PLENTY
from mmtrt.tensors import Array, ModelSpec, Profile

__all__ = ["Golden", "Measured", "measured"]

_BATCH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """What an engine is held to: the folder of the golden samples, and the budget in the words of `mmtrt check`.

    `profile` is what the engine takes; `cache` is where the runtime keeps what it compiles; `duration_s` is for how
    long the latency is measured.
    """

    engine: Path
    samples: Path
    spec: ModelSpec
    precision: str
    digest: str
    budget: Mapping[str, float]
    profile: Profile
    cache: Path
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The parity of an engine over the golden samples, and its latency: `CheckResult` and `BenchRow` as JSON.

    `latency` is None where the parity failed.
    """

    verdict: str
    runs: str
    parity: Mapping[str, Any]
    latency: Mapping[str, Any] | None
    p50_ms: float
    notes: tuple[str, ...]


def measured(golden: Golden) -> Measured:
    """Run an engine over the golden samples, and time it where it agrees with them.

    InputError for samples that are none, MachineError where this machine can't load the engine, CrashError where
    native code dies.
    """
    return run_isolated(_measured, golden, what="the engine's first run")


def _measured(golden: Golden) -> Measured:
    # What is compiled for this GPU belongs to the deployment.
    os.environ["MMTRT_CACHE_DIR"] = str(golden.cache)
    _check_size(golden.samples)
    samples = open_set(str(golden.samples))
    every = list(checked(samples, golden.spec))
    taken = fitting(every, golden.profile)
    if not taken:
        raise SampleError(
            "no golden sample of the bundle has the shape that this engine takes",
            fix="Make the bundle with golden samples of the usual shape.",
        )
    bounds, left_out = _bounds(golden.budget)
    result, notes = on_these(_compared(golden, samples, taken, bounds))
    notes += [f"{key} is not held to by golden samples: no labels or phrases" for key in left_out]
    if len(taken) < len(every):
        notes.append(f"the engine takes the shape of {len(taken)} golden samples, and there are {len(every)}")
    row = _timed(golden, taken) if result.verdict == "pass" else None
    return Measured(
        verdict=result.verdict,
        runs=result.candidate.runs,
        parity=result.to_json(),
        latency=None if row is None else row.to_json(),
        p50_ms=math.nan if row is None else row.p50_ms,
        notes=tuple(notes),
    )


def _check_size(samples: Path) -> None:
    """Raise SampleError where the golden samples, which are all held at once, would take this board's memory."""
    try:
        check_npz(sorted(samples.glob("*.npz")), PLENTY)
    except SampleError as error:
        raise SampleError(
            error.message, fix=f"Golden samples hold at most {PLENTY >> 20} MiB together: carry fewer in the bundle."
        ) from error


def _compared(golden: Golden, samples: SampleSet, taken: list[Sample], bounds: Mapping[str, float]) -> CheckResult:
    size = min([largest_batch(golden.spec, _BATCH), *(span.max[0] for span in golden.profile.values() if span.max)])
    engine = golden.engine.name
    try:
        (found,) = compare(
            Side(what="the golden samples", runner=_recorded(samples, golden.spec), precision="fp32"),
            [Side(what=engine, runner=TensorRTRunner(golden.engine), precision=golden.precision, budget=bounds)],
            batches(taken, golden.spec, size=size),
            heads=golden.spec.heads,
        )
    except UsageError as error:
        # Here nobody wrote it on a command line.
        raise InputError(f"the bundle's budget: {error.message}", fix=error.fix) from error
    return found


def _timed(golden: Golden, taken: list[Sample]) -> BenchRow:
    first = next(iter(batches(taken, golden.spec, size=1)))
    contender = Contender(
        file=golden.engine.name,
        runner=TensorRTRunner(golden.engine),
        precision=golden.precision,
        digest=golden.digest,
    )
    return measure([contender], first.feeds, duration_s=golden.duration_s).results[0]


def _recorded(samples: SampleSet, spec: ModelSpec) -> SavedRunner:
    """Return what answers with PyTorch's outputs, which lie in the samples."""

    def rows() -> Iterator[tuple[Mapping[str, Array], Mapping[str, Array]]]:
        for sample in checked(samples, spec):
            yield split_label(sample)[0], with_prefix(sample, OUTPUT)

    runs = "PyTorch's outputs, as the bundle has them"
    return SavedRunner("the golden samples", runs, spec.inputs, rows=rows, calls={})


def _bounds(budget: Mapping[str, float]) -> tuple[dict[str, float], list[str]]:
    """Return the bounds that golden samples can be held to, and those that need labels or phrases."""
    try:
        bounds, _ = split_budget(budget)
    except UsageError as error:
        raise InputError(f"the bundle's budget: {error.message}", fix=error.fix) from error
    others = [key for key in bounds if key.endswith("_drop") or key.rpartition(":")[2] == PHRASES]
    return {key: bound for key, bound in bounds.items() if key not in others}, others


def on_these(found: CheckResult) -> tuple[CheckResult, list[str]]:
    """Judge an inconclusive output by these very samples, and say so.

    A bound such as 99% of equal answers is a claim about other samples, which a handful can't prove: `mmtrt check`
    had its say over a whole set before. Here all that was measured must lie within its bound.
    """
    outputs: dict[str, OutputResult] = {}
    notes = []
    for name, output in found.outputs.items():
        outputs[name] = output
        if output.verdict != "inconclusive":
            continue
        if output.budget and not any(_out(output, metric, bound) for metric, bound in output.budget.items()):
            outputs[name] = replace(output, verdict="pass")
            notes += [f"output {name!r}, by these {found.samples} samples alone: {why}" for why in output.why]
    return replace(found, outputs=outputs, verdict=whole_verdict(o.verdict for o in outputs.values())), notes


def _out(output: OutputResult, metric: str, bound: float) -> bool:
    value = output.metrics.get(metric)
    return bool(out_of_bound(metric, math.nan if value is None else value, bound))
