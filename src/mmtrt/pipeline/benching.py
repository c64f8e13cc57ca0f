"""The benchmark of several subjects: at one shape, over a sweep, in a scenario."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from mmtrt.artifacts import read_json
from mmtrt.bench.contenders import Contender, TorchKind
from mmtrt.bench.gate import Key, check_rows, compare, key_of, read_bench
from mmtrt.bench.measure import Settings, sweep
from mmtrt.bench.queries import Shape
from mmtrt.bench.sweeps import shapes_of
from mmtrt.bench.telemetry import Sampler
from mmtrt.errors import SampleError, UsageError
from mmtrt.machine import machine
from mmtrt.pipeline.bench_against import source_of, torch_contenders
from mmtrt.pipeline.bench_layers import with_layers
from mmtrt.pipeline.bench_shapes import batch_name, batch_of, check_sizes, scenario_sizes, size_names
from mmtrt.pipeline.checking import default_samples
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.profiles import ranges_from_shapes
from mmtrt.pipeline.sides import Subject, is_source, open_subject
from mmtrt.results import BenchResult
from mmtrt.runtimes.cuda import gpu
from mmtrt.samples import SampleSet, checked, open_set
from mmtrt.samples.random import random_set
from mmtrt.tensors import Feeds, ModelSpec, resize_array, resolve_shape

__all__ = ["BenchRequest", "bench_feeds", "bench_files", "bench_stage"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRequest:
    """What to measure. `shapes` are those of inputs, `sizes` and `sweeps` sizes by their names.

    `against` adds PyTorch, of `source`, else of what the files were exported from, with the weights of `checkpoint`.
    `layers` asks for the time of each layer and branch too. `baseline` is an earlier run's JSON, than which no row may
    be slower by more than `limit`, a share of 1.
    """

    files: tuple[str, ...]
    settings: Settings = field(default_factory=Settings)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    sweeps: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    against: tuple[TorchKind, ...] = ()
    against_precision: Literal["fp32", "fp16"] | None = None
    source: str | None = None
    checkpoint: Path | None = None
    baseline: Path | None = None
    limit: float = 0.03
    layers: bool = False


def bench_feeds(spec: ModelSpec, sizes: Mapping[str, int], samples: SampleSet | None) -> Feeds:
    """Inputs for one run at the sizes given, else the usual ones: a sample repeated or cut, or drawn at random.

    UsageError where a size is outside the model's range or unknown to it.
    """
    check_sizes(spec, sizes)
    usual = {name: spec.ranges[name][1] if name in spec.ranges else 1 for name in size_names(spec)}
    wanted = {**usual, **sizes}
    source = samples if samples is not None else random_set(spec, 1)
    sample = next(iter(islice(checked(source, spec), 1)))
    return {
        tensor.name: resize_array(np.asarray(sample[tensor.name])[None], resolve_shape(tensor.shape, wanted))
        for tensor in spec.inputs
    }


def bench_stage(context: Context, subjects: Sequence[Subject], feeds: Feeds, *, duration_s: float) -> BenchResult:
    """Measure the subjects in turn at one shape; GPU engines by CUDA events, all else by the host's clock."""
    context.stage(f"latency of {len(subjects)}, {duration_s:g} s each")
    samples = batch_of(subjects[0].spec, feeds)
    contenders = [_contender(subject) for subject in subjects]
    return sweep(contenders, [Shape(feeds=feeds, samples=samples)], Settings(duration_s=duration_s))


def bench_files(context: Context, request: BenchRequest) -> BenchResult:
    """Measure files at each shape asked for, on a sample that lies beside the first that has one.

    With a baseline the result has its gate; InputError where that is of something else.
    """
    _check_request(request)
    baseline = None if request.baseline is None else read_bench(read_json(request.baseline), str(request.baseline))
    subjects = [open_subject(file, request.checkpoint if is_source(file) else None) for file in request.files]
    spec = max((subject.spec for subject in subjects), key=lambda s: len(s.limits) + len(s.ranges))
    _check_inputs(subjects, spec)
    shapes = _shapes(context, request, spec)
    for subject in subjects:
        for shape in shapes:
            _check_fits(subject, shape)
    contenders = [*map(_contender, subjects), *_torch(request, subjects)]
    if baseline is not None:
        check_rows(baseline, machine(), _keys(request, contenders, shapes), str(request.baseline))
    each = f"{request.settings.duration_s:g} s each"

    def begun(shape: Shape) -> None:
        at = " at " + ", ".join(f"{name} {size}" for name, size in shape.sizes.items()) if shape.sizes else ""
        context.stage(f"latency of {len(contenders)}{at}, {each}")

    # Without a GPU there is nothing to read.
    sensors = Sampler() if gpu() is not None else None
    result = sweep(contenders, shapes, request.settings, watch=sensors, begun=begun)
    if sensors is not None and sensors.why:
        context.note(f"clocks and power are not told: {sensors.why}")
    if request.layers:
        result = with_layers(context, result, subjects, shapes)
    if baseline is None:
        return result
    return replace(
        result, gate=compare(baseline, result, limit=request.limit, baseline=str(request.baseline)).to_json()
    )


def _torch(request: BenchRequest, subjects: Sequence[Subject]) -> list[Contender]:
    if not request.against:
        return []
    source = request.source or source_of(subjects)
    return torch_contenders(source, request.checkpoint, request.against, request.against_precision)


def _keys(request: BenchRequest, contenders: Sequence[Contender], shapes: Sequence[Shape]) -> list[Key]:
    return [
        key_of(one.file, one.precision, request.settings.scenario.name, {n: a.shape for n, a in shape.feeds.items()})
        for shape in shapes
        for one in contenders
    ]


def _check_request(request: BenchRequest) -> None:
    if request.settings.scenario.host_clock and not request.settings.transfers:
        raise UsageError(
            f"{request.settings.scenario.name} takes the time until the caller has the results: the copies are in it",
            fix="Leave --no-transfers out, or measure with --scenario latency.",
        )
    if request.checkpoint is not None and not request.against and not any(map(is_source, request.files)):
        raise UsageError("a checkpoint is given, and all are files", fix="They have their weights: leave it out.")
    if request.source is not None and not request.against:
        raise UsageError("--source names what --against runs", fix="Give --against torch or torch-compile too.")
    if request.against_precision is not None and not request.against:
        raise UsageError(
            "--against-precision is that of what --against runs", fix="Give --against torch or torch-compile too."
        )
    known: dict[str, str] = {}
    for file in request.files:
        place = str(Path(file).resolve()) if Path(file).exists() else file
        if place in known:
            raise UsageError(f"{file} is given twice", fix="To see the machine's own noise, compare it with a copy.")
        known[place] = file


def _check_inputs(subjects: Sequence[Subject], spec: ModelSpec) -> None:
    """Raise UsageError where the files are of different models: all are fed the same inputs."""
    wanted = {tensor.name for tensor in spec.inputs}
    for subject in subjects:
        names = {tensor.name for tensor in subject.spec.inputs}
        if names != wanted:
            raise UsageError(
                f"{subject.what} takes {', '.join(sorted(names))}, another file {', '.join(sorted(wanted))}: "
                "files in one call are fed the same inputs",
                fix="Measure different models in calls of their own.",
            )


def _shapes(context: Context, request: BenchRequest, spec: ModelSpec) -> list[Shape]:
    """Return what is fed at each point of the sweeps, as the scenario has it."""
    given = {name: span[1] for name, span in ranges_from_shapes(spec, ({}, request.shapes, {})).items()}
    told = {**request.sizes, **given}
    check_sizes(spec, dict.fromkeys(request.sweeps, None))
    try:
        samples: SampleSet | None = open_set(default_samples(*request.files))
    except SampleError:
        samples = None
        context.note("no samples lie beside the files: the inputs are drawn at random")
    chosen = {**told, **dict.fromkeys(request.sweeps, None)}
    fixed, runs = scenario_sizes(request.settings.scenario, spec, chosen)
    if request.settings.scenario.name == "offline" and (name := batch_name(spec)) not in {None, *chosen, *spec.ranges}:
        context.note(f"no file tells the largest {name}: it is 1; choose it with --sweep or --shapes")
    shapes = []
    for point in shapes_of(request.sweeps):
        feeds = bench_feeds(spec, {**told, **fixed, **point}, samples)
        shapes.append(Shape(feeds=feeds, sizes=point, samples=batch_of(spec, feeds), runs=runs))
    return shapes


def _check_fits(subject: Subject, shape: Shape) -> None:
    """Raise UsageError before any measuring, where a file does not take a shape."""
    for tensor in subject.spec.inputs:
        fed = shape.feeds.get(tensor.name)
        if fed is None or len(fed.shape) != len(tensor.shape):
            continue
        for size, dim in zip(fed.shape, tensor.shape, strict=True):
            low, _, high = subject.spec.ranges.get(dim, (size, size, size)) if isinstance(dim, str) else (dim,) * 3
            if not low <= size <= high:
                raise UsageError(
                    f"{subject.what}: {dim if isinstance(dim, str) else tensor.name} = {size} is outside "
                    f"its {low} to {high}",
                    fix="Measure at sizes that all files take.",
                )


def _contender(subject: Subject) -> Contender:
    return Contender(file=subject.what, runner=subject.fast(), precision=subject.precision, digest=subject.key)
