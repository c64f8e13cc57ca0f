"""Measure runners in turn in one process, so that what the machine does meets all of them alike."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmtrt.machine import machine
from mmtrt.results import BenchResult, BenchRow
from mmtrt.runtimes import Runner
from mmtrt.tensors import Feeds

__all__ = ["Contender", "measure", "percentile"]

WARM_UP_S = 0.2
LEAST = 10
_SETTLE_S = 0.002
"""A thread pool goes on spinning for a moment after its run, and would take a core from the next contender's."""
_RESAMPLES = 1000
_SEED = 2004_09602


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A file to be measured and what runs it; `gpu_ms` times one run by CUDA events, where there are any."""

    file: str
    runner: Runner
    gpu_ms: Callable[[Feeds], float] | None = None


def measure(contenders: Sequence[Contender], feeds: Feeds, *, duration_s: float = 3.0) -> BenchResult:
    """Time one inference of each contender in turn, at least ten times, for `duration_s` seconds per contender in all.

    Percentiles are order statistics (nearest rank). The ratio is of medians against the first contender, its
    95% interval from resampled rounds.
    """
    times: list[list[float]] = [[] for _ in contenders]
    with contextlib.ExitStack() as stack:
        for contender in contenders:
            stack.enter_context(contender.runner)
        for contender in contenders:
            _warm_up(contender, feeds)
        until = time.perf_counter() + duration_s * len(contenders)
        while len(times[0]) < LEAST or time.perf_counter() < until:
            for contender, row in zip(contenders, times, strict=True):
                if len(contenders) > 1:
                    time.sleep(_SETTLE_S)
                row.append(_once(contender, feeds))
        runs = [contender.runner.runs for contender in contenders]
    shapes = {name: array.shape for name, array in feeds.items()}
    rows = tuple(_row(c, r, t, shapes) for c, r, t in zip(contenders, runs, times, strict=True))
    return BenchResult(results=rows, machine=machine(), ratio=_ratios(contenders, times))


def _warm_up(contender: Contender, feeds: Feeds) -> None:
    until = time.perf_counter() + WARM_UP_S
    _once(contender, feeds)
    while time.perf_counter() < until:
        _once(contender, feeds)


def _once(contender: Contender, feeds: Feeds) -> float:
    if contender.gpu_ms is not None:
        return contender.gpu_ms(feeds)
    start = time.perf_counter_ns()
    contender.runner.infer(feeds)
    return (time.perf_counter_ns() - start) / 1e6


def percentile(times: Sequence[float], percent: int) -> float:
    """Return the smallest time that at least `percent` of all times do not exceed (nearest rank)."""
    ordered = sorted(times)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def _row(contender: Contender, runs: str, times: Sequence[float], shapes: Mapping[str, tuple[int, ...]]) -> BenchRow:
    return BenchRow(
        file=contender.file,
        runs=runs,
        clock="host" if contender.gpu_ms is None else "cuda_event",
        p50_ms=percentile(times, 50),
        p90_ms=percentile(times, 90),
        p99_ms=percentile(times, 99),
        mean_ms=float(np.mean(times)),
        n=len(times),
        cuda_graph=False,
        transfers=True,
        shapes=shapes,
    )


def _ratios(contenders: Sequence[Contender], times: Sequence[Sequence[float]]) -> dict[str, Any] | None:
    """Median time against the first contender's, with a paired bootstrap over rounds (Efron 1979)."""
    if len(contenders) < 2:
        return None
    table = np.array(times)
    rounds = table.shape[1]
    rng = np.random.default_rng(_SEED)
    # One resample at a time: all at once, a minute of a fast model would take gigabytes.
    medians = np.array([np.median(table[:, rng.integers(0, rounds, rounds)], axis=1) for _ in range(_RESAMPLES)]).T
    ratios: dict[str, Any] = {}
    for index, contender in enumerate(contenders[1:], start=1):
        low, high = np.percentile(medians[index] / medians[0], [2.5, 97.5])
        ratios[contender.file] = {
            "against": contenders[0].file,
            "p50": float(np.median(table[index]) / np.median(table[0])),
            "ci95": [float(low), float(high)],
        }
    return ratios
