"""The benchmarks of a run: on the CPU kept in the cache for this very machine, on the GPU measured each time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmtrt.artifacts import read_json, write_json
from mmtrt.machine import machine
from mmtrt.pipeline.benching import bench_stage
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.sides import Subject, cannot_run, open_subject
from mmtrt.results import BenchResult, BuildResult, plain
from mmtrt.tensors import Feeds

__all__ = ["bench_built", "bench_kept"]

_METHOD = 2
"""Raised where times are taken in another way: what was kept before is then measured anew."""


def bench_kept(
    context: Context, subjects: Sequence[Subject], feeds: Feeds, engines: Sequence[Path], *, duration_s: float
) -> BenchResult:
    """Measure on the CPU; cached for this very machine. It tells why those of `engines` can't run that can't."""
    parts = {
        "subjects": [subject.key for subject in subjects],
        "names": [subject.what for subject in subjects],
        "shapes": {name: list(array.shape) for name, array in feeds.items()},
        "duration_s": duration_s,
        "machine": plain(machine()),
        "method": _METHOD,
    }

    def work(into: Path) -> None:
        result = bench_stage(context, subjects, feeds, duration_s=duration_s)
        write_json(into / "result.json", result.to_json())

    kept, cached = context.cache.run("bench", parts, work)
    left = {str(engine): why for engine in engines if (why := cannot_run(engine)) is not None}
    return BenchResult.from_json(read_json(kept / "result.json"), not_run=left, cached=cached)


def bench_built(
    context: Context, reference: Subject, builds: Sequence[BuildResult], feeds: Feeds, *, duration_s: float
) -> tuple[BenchResult, BenchResult | None]:
    """Measure a module and its ONNX files on the CPU, and those engines that run here: None without any.

    A GPU's time is never taken from a cache: clocks and heat differ each time.
    """
    engines = [Path(build.artifacts["engine"]) for build in builds]
    subjects = [reference, *(open_subject(build.artifacts["onnx"]) for build in builds)]
    measured = bench_kept(context, subjects, feeds, engines, duration_s=duration_s)
    running = [open_subject(str(engine)) for engine in engines if cannot_run(engine) is None]
    return measured, bench_stage(context, running, feeds, duration_s=duration_s) if running else None
