"""Per-layer and per-branch times of what a benchmark measured: by the profiler of whatever ran."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from mmtrt.bench.layers import LayerTimes, engine_layer_times
from mmtrt.bench.ort_layers import ort_layer_times
from mmtrt.bench.queries import Shape
from mmtrt.engine import manifest as manifests
from mmtrt.pipeline.bench_builds import known_nodes, with_slower
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.sides import ENGINE_SUFFIXES, Subject
from mmtrt.results import BenchResult, BenchRow
from mmtrt.tensors import Feeds

__all__ = ["with_layers"]

_COLD, _RUNS = 3, 20
_SECONDS = 2.0


@runtime_checkable
class Profiled(Protocol):
    """A runner, entered, that tells the time of each of its layers."""

    def profiled(self, feeds: Feeds) -> Sequence[tuple[str, float]]:
        """Run once with the profiler; return each layer and its time in ms, in their order."""
        ...


def with_layers(
    context: Context, bench: BenchResult, subjects: Sequence[Subject], shapes: Sequence[Shape]
) -> BenchResult:
    """Add to each row of a file the times of its layers and branches; what has no profiler is told of.

    They are measured after all else: a profiler makes a run slower.
    """
    named = {subject.what: subject for subject in subjects}
    fed = {_shapes_of(shape.feeds): shape.feeds for shape in shapes}
    rows = []
    for row in bench.results:
        subject = named.get(row.file)
        context.stage(f"layers of {row.file}")
        found = None if subject is None else _layers(subject, fed[_told(row)], row)
        if found is None:
            context.note(f"{row.file}: it has no profiler, and its layers are not told")
        rows.append(row if found is None else replace(row, layers=found.to_json()))
    return replace(bench, results=with_slower(rows))


def _shapes_of(feeds: Feeds) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple(sorted((name, tuple(array.shape)) for name, array in feeds.items()))


def _told(row: BenchRow) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple(sorted((name, tuple(shape)) for name, shape in row.shapes.items()))


def _layers(subject: Subject, feeds: Feeds, row: BenchRow) -> LayerTimes | None:
    path = Path(subject.what)
    if path.suffix == ".onnx" and path.is_file():
        return ort_layer_times(path, feeds, duration_s=min(_SECONDS, row.measured_s or _SECONDS))
    runner = subject.fast()
    if path.suffix not in ENGINE_SUFFIXES or not isinstance(runner, Profiled):
        return None
    with runner as engine:
        timed = [engine.profiled(feeds) for _ in range(_COLD + _RUNS)][_COLD:]
        return engine_layer_times(
            file=subject.what,
            runs=engine.runs,
            rows=manifests.layer_rows(path) or (),
            timed=timed,
            nodes=known_nodes(path),
            latency_ms=row.compute_p50_ms if row.compute_p50_ms is not None else row.p50_ms,
        )
