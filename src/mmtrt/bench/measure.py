"""Measure runners in turn in one process, so that what the machine does meets all of them alike."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from mmtrt.bench.contenders import Contender, Watch
from mmtrt.bench.memory import rss_mib
from mmtrt.bench.queries import Shape, opened
from mmtrt.bench.rows import Measured, ratios, row
from mmtrt.bench.scenarios import SCENARIOS, Scenario
from mmtrt.bench.series import Series
from mmtrt.bench.statistics import percentile
from mmtrt.bench.trying import refusal
from mmtrt.errors import MachineError, MeasurementError
from mmtrt.machine import machine
from mmtrt.results import BenchResult, BenchRow
from mmtrt.runtimes.timing import TimedRun
from mmtrt.tensors import Feeds

__all__ = ["BURSTS", "LEAST", "Settings", "measure", "sweep"]

LEAST = 10
"""Times of each, however long they take."""
BURSTS = 10
_QUEUED = 8
"""Queries of a burst where there is a queue: its last one alone is not overlapped."""
_LESS = 3
"""Queries one ahead take a third of the time of single ones; offline it is the other way about."""
_SETTLE_S, _SETTLE_MOST_S, _QUIET = 0.002, 0.05, 3
"""A thread pool goes on spinning for a while after its run, and would take a core from the next contender's. Linux
counts its time a tick of 4 ms late, so one quiet look is not enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to measure. `duration_s` is what the latencies of each contender at each shape take at least.

    `host_clock` takes the caller's time of all, also where a device has its own clock.
    """

    duration_s: float = 3.0
    warm_up_s: float = 0.2
    cuda_graph: bool = True
    transfers: bool = True
    host_clock: bool = False
    scenario: Scenario = field(default_factory=lambda: SCENARIOS["latency"])


def measure(contenders: Sequence[Contender], feeds: Feeds, *, duration_s: float = 3.0, samples: int = 1) -> BenchResult:
    """Measure at one shape, with the usual settings; see `sweep`."""
    return sweep(contenders, [Shape(feeds=feeds, samples=samples)], Settings(duration_s=duration_s))


def sweep(
    contenders: Sequence[Contender],
    shapes: Sequence[Shape],
    settings: Settings,
    *,
    watch: Watch | None = None,
    begun: Callable[[Shape], None] | None = None,
) -> BenchResult:
    """Measure each contender at each shape, in turn, at least ten times; `begun` is told each shape.

    Percentiles are order statistics (nearest rank). The ratio is of medians against the first contender, its 95%
    interval by a paired block bootstrap over rounds. One that may refuse and does is told under `not_run`.
    MachineError where their clocks can't be compared.
    """
    rows: list[BenchRow] = []
    held = dict.fromkeys(range(len(contenders)), 0.0)
    with contextlib.ExitStack() as stack:
        if watch is not None:
            stack.enter_context(watch)
        running: list[Contender] = []
        not_run: dict[str, str] = {}
        for contender in contenders:
            with _counted(held, len(running)):
                graph, copies = settings.cuda_graph, settings.transfers
                why = refusal(contender, shapes, stack, cuda_graph=graph, transfers=copies)
            if why:
                held[len(running)], not_run[contender.file] = 0.0, why
            else:
                running.append(contender)
        start = time.perf_counter()
        for shape in shapes:
            if begun is not None:
                begun(shape)
            rows += _at(running, shape, settings, watch, held)
        told = watch.between(start, time.perf_counter()) if watch is not None else None
    return BenchResult(
        results=tuple(rows),
        machine=machine(),
        ratio=ratios(rows) if len(shapes) == 1 else None,
        not_run=not_run,
        settings={
            "duration_s": settings.duration_s,
            "warm_up_s": settings.warm_up_s,
            "scenario": settings.scenario.name,
            "cuda_graph": settings.cuda_graph,
            "transfers": settings.transfers,
            "clock": "host" if settings.host_clock else "device",
        },
        telemetry=told.to_json() if told is not None else None,
    )


def _at(
    contenders: Sequence[Contender], shape: Shape, settings: Settings, watch: Watch | None, held: dict[int, float]
) -> list[BenchRow]:
    with contextlib.ExitStack() as stack:
        runs: list[TimedRun] = []
        for index, contender in enumerate(contenders):
            with _counted(held, index):
                graph, copies = settings.cuda_graph, settings.transfers
                run = stack.enter_context(opened(contender.runner, shape, cuda_graph=graph, transfers=copies))
                runs.append(run)
                _warm_up(run, settings.warm_up_s)
        on_host = settings.host_clock or settings.scenario.host_clock
        _check_clocks([run.clock for run in runs], on_host=on_host)
        start = time.perf_counter()
        queued = settings.scenario.percent is None
        latency_s, queued_s = settings.duration_s, settings.duration_s / _LESS
        if settings.scenario.name == "offline":
            latency_s, queued_s = queued_s, latency_s
        timings = _rounds(runs, latency_s)
        bursts = _bursts(runs, timings, queued_s) if queued else [[] for _ in runs]
        stop = time.perf_counter()
        told = watch.between(start, stop) if watch is not None and len(runs) == 1 else None
        measured = [
            Measured(
                contender=contender,
                run=run,
                timings=times,
                bursts=rates,
                shape=shape,
                on_host=on_host,
                measured_s=stop - start,
                host_mib=held[index] if rss_mib() is not None else None,
                told=told,
            )
            for index, (contender, run, times, rates) in enumerate(zip(contenders, runs, timings, bursts, strict=True))
        ]
        first = measured[0]
        return [row(one, settings.scenario, against=first if one is not first else None) for one in measured]


@contextlib.contextmanager
def _counted(held: dict[int, float], index: int) -> Iterator[None]:
    """Add to a contender's account what memory of this process it takes."""
    before = rss_mib()
    yield
    after = rss_mib()
    if before is not None and after is not None:
        held[index] += max(0.0, after - before)


def _check_clocks(clocks: Sequence[str], *, on_host: bool) -> None:
    if len(set(clocks)) > 1 and not on_host:
        raise MachineError(
            "an engine's time on the GPU and a file's time on the CPU are not one comparison",
            fix="Measure them in two calls, or give --clock host for the caller's time of both.",
        )


def _warm_up(run: TimedRun, seconds: float) -> None:
    until = time.perf_counter() + seconds
    run.once()
    while time.perf_counter() < until:
        run.once()


def _rounds(runs: Sequence[TimedRun], duration_s: float) -> list[Series]:
    """Run each in turn, until all have had their time."""
    timings = [Series() for _ in runs]
    # A device's queue is empty between two runs; nothing of them goes on.
    settles = len(runs) > 1 and any(run.clock == "host" for run in runs)
    until = time.perf_counter() + duration_s * len(runs)
    while len(timings[0]) < LEAST or time.perf_counter() < until:
        for run, mine in zip(runs, timings, strict=True):
            if settles:
                _settle()
            mine.add(run.once())
    return timings


def _settle() -> None:
    """Wait until this process's threads rest: OpenMP's, which PyTorch has, spin for many ms on a slow processor."""
    until = time.perf_counter() + _SETTLE_MOST_S
    quiet = 0
    while quiet < _QUIET and time.perf_counter() < until:
        before = time.process_time()
        time.sleep(_SETTLE_S)
        quiet = quiet + 1 if time.process_time() - before < _SETTLE_S / 4 else 0


def _bursts(runs: Sequence[TimedRun], timings: Sequence[Series], duration_s: float) -> list[list[tuple[int, float]]]:
    """Send queries one ahead, in bursts, each contender in turn: queries and seconds of each burst."""
    counts = []
    for run, times in zip(runs, timings, strict=True):
        usual_ms = percentile(times.host_ms, 50)
        wanted = duration_s * 1e3 / BURSTS / usual_ms if usual_ms > 0 else 1
        counts.append(max(_QUEUED if run.clock == "cuda_event" else 1, round(wanted)))
    bursts: list[list[tuple[int, float]]] = [[] for _ in runs]
    for _ in range(BURSTS):
        for run, count, mine in zip(runs, counts, bursts, strict=True):
            if len(runs) > 1 and run.clock == "host":
                _settle()
            took = run.burst(count)
            if not took > 0:
                raise MeasurementError(f"{count} queries took {took} s by the host's clock")
            mine.append((count, took))
    return bursts
