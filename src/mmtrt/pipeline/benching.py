"""The benchmark of several subjects at one shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np

from mmtrt.bench.measure import Contender, measure
from mmtrt.errors import MachineError, SampleError, UsageError
from mmtrt.pipeline.checking import default_samples
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.profiles import ranges_from_shapes
from mmtrt.pipeline.sides import Subject, open_subject
from mmtrt.results import BenchResult
from mmtrt.runtimes.tensorrt import TensorRTRunner
from mmtrt.samples import SampleSet, checked, open_set
from mmtrt.samples.random import random_set
from mmtrt.tensors import Feeds, ModelSpec, resize_array, resolve_shape

__all__ = ["bench_feeds", "bench_files", "bench_stage"]


def bench_feeds(spec: ModelSpec, sizes: Mapping[str, int], samples: SampleSet | None) -> Feeds:
    """Inputs for one run at the sizes given, else the usual ones: a sample repeated or cut, or drawn at random.

    UsageError where a size is outside the model's range or unknown to it.
    """
    names = {dim for tensor in spec.inputs for dim in tensor.shape if isinstance(dim, str)}
    for name, size in sizes.items():
        if name not in names:
            raise UsageError(
                f"the model has no size {name!r}", fix=f"Its sizes are {', '.join(sorted(names)) or 'fixed'}."
            )
        if name in spec.ranges and not spec.ranges[name][0] <= size <= spec.ranges[name][2]:
            low, _, high = spec.ranges[name]
            raise UsageError(
                f"{name} = {size} is outside the profile's {low} to {high}", fix="Measure at a size within it."
            )
    usual = {name: spec.ranges[name][1] if name in spec.ranges else 1 for name in names}
    wanted = {**usual, **sizes}
    source = samples if samples is not None else random_set(spec, 1)
    sample = next(iter(islice(checked(source, spec), 1)))
    return {
        tensor.name: resize_array(np.asarray(sample[tensor.name])[None], resolve_shape(tensor.shape, wanted))
        for tensor in spec.inputs
    }


def bench_stage(context: Context, subjects: Sequence[Subject], feeds: Feeds, *, duration_s: float) -> BenchResult:
    """Measure the subjects in turn; GPU engines by CUDA events, all else by the host's clock."""
    context.stage(f"latency of {len(subjects)}, {duration_s:g} s each")
    contenders = [_contender(subject) for subject in subjects]
    clocks = {contender.gpu_ms is None for contender in contenders}
    if len(clocks) > 1:
        raise MachineError(
            "an engine's time on the GPU and a file's time on the CPU are not one comparison",
            fix="Measure them in two calls.",
        )
    return measure(contenders, feeds, duration_s=duration_s)


def bench_files(
    context: Context, files: Sequence[str], shapes: Mapping[str, tuple[int, ...]], *, duration_s: float
) -> BenchResult:
    """Measure files at the shapes given, else the usual ones, on a sample that lies beside the first that has one."""
    subjects = [open_subject(file) for file in files]
    spec = max((subject.spec for subject in subjects), key=lambda s: len(s.limits) + len(s.ranges))
    found = ranges_from_shapes(spec, ({}, shapes, {}))
    try:
        samples: SampleSet | None = open_set(default_samples(*files))
    except SampleError:
        samples = None
        context.note("no samples lie beside the files: the inputs are drawn at random")
    feeds = bench_feeds(spec, {name: span[1] for name, span in found.items()}, samples)
    return bench_stage(context, subjects, feeds, duration_s=duration_s)


def _contender(subject: Subject) -> Contender:
    runner = subject.fast()
    if isinstance(runner, TensorRTRunner):
        engine = runner

        def gpu_ms(feeds: Feeds) -> float:
            return engine.measure(feeds, iterations=1, transfers="included")[0]

        return Contender(file=subject.what, runner=runner, gpu_ms=gpu_ms)
    return Contender(file=subject.what, runner=runner)
