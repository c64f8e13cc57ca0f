"""From times to a row, and from two rows' times to their ratio."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmtrt.bench.contenders import Contender, TellsNotes, Told
from mmtrt.bench.doubts import doubts
from mmtrt.bench.memory import device_mib, peak_rss_mib
from mmtrt.bench.queries import Shape
from mmtrt.bench.scenarios import Scenario
from mmtrt.bench.series import Series
from mmtrt.bench.statistics import (
    Interval,
    early_stopping,
    mean_interval,
    mean_ratio_interval,
    percentile,
    percentile_interval,
    ratio_interval,
    spread,
)
from mmtrt.errors import MeasurementError
from mmtrt.results import BenchRow
from mmtrt.runtimes.timing import TimedRun

__all__ = ["Measured", "ratios", "row"]

_PARTS = ("enqueue", "h2d", "compute", "d2h")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured of one contender at one shape: each run's times, and queries and seconds of each burst."""

    contender: Contender
    run: TimedRun
    timings: Series
    bursts: Sequence[tuple[int, float]]
    shape: Shape
    on_host: bool
    measured_s: float
    host_mib: float | None = None
    told: Told | None = None

    @property
    def latencies(self) -> array[float]:
        """Each run's time by the clock that counts, in ms."""
        return self.timings.host_ms if self.on_host else self.timings.latency_ms

    @property
    def apart_s(self) -> list[float]:
        """Seconds from query to query in each burst; bursts of one contender have the same number of queries."""
        return [seconds / count for count, seconds in self.bursts]

    def series(self) -> dict[str, Sequence[float]]:
        """Each run's time and its parts that were measured, in ms."""
        found: dict[str, Sequence[float]] = {"latency_ms": self.latencies}
        if not self.on_host and self.run.clock != "host":
            found["host_ms"] = self.timings.host_ms
        return {**found, **self.timings.parts}


def row(measured: Measured, scenario: Scenario, against: Measured | None = None) -> BenchRow:
    """Summarise what was measured; MeasurementError where a time is no number."""
    series, runner = measured.series(), measured.contender.runner
    try:
        times = spread(series["latency_ms"])
    except ValueError as error:
        raise MeasurementError(f"{measured.contender.file}: {error}") from error
    on_device = measured.run.clock == "cuda_event" and not measured.on_host
    clock = "cuda_event" if on_device else "host"
    if not times.p50 > 0:
        raise MeasurementError(
            f"{measured.contender.file}: a run took {times.p50} ms by the {measured.run.clock} clock"
        )
    interval = percentile_interval(series["latency_ms"])
    medians = {name: percentile(values, 50) for name, values in series.items()}
    queries = len(measured.timings) + sum(count for count, _ in measured.bursts)
    samples = measured.shape.samples * measured.shape.runs
    rate, ends = _throughput(measured)
    throughput = None if ends is None else (ends[0] * samples, ends[1] * samples)
    parts = {name: medians.get(f"{name}_ms") for name in _PARTS}
    warnings = list(doubts(times, interval, clock, parts))
    shortfall = scenario.shortfall(measured.measured_s, queries, queries * samples)
    return BenchRow(
        file=measured.contender.file,
        runs=runner.runs,
        clock="cuda_event" if on_device else "host",
        p50_ms=times.p50,
        p90_ms=times.p90,
        p95_ms=times.p95,
        p99_ms=times.p99,
        mean_ms=times.mean,
        min_ms=times.min,
        max_ms=times.max,
        n=times.n,
        cv=times.cv,
        drift=times.drift,
        p50_ci95_ms=interval,
        figure_ci95=_figure_interval(scenario, series["latency_ms"], interval, throughput),
        early_stopping_ms=early_stopping(series["latency_ms"], scenario.percent) if scenario.percent else None,
        cuda_graph=measured.run.cuda_graph,
        transfers=measured.run.transfers,
        shapes={name: tuple(fed.shape) for name, fed in measured.shape.feeds.items()},
        precision=measured.contender.precision,
        digest=measured.contender.digest,
        scenario=scenario.name,
        figure=scenario.figure,
        sizes=dict(measured.shape.sizes),
        samples=samples,
        host_p50_ms=medians.get("host_ms", times.p50 if not on_device else None),
        enqueue_p50_ms=parts["enqueue"],
        h2d_p50_ms=parts["h2d"],
        compute_p50_ms=parts["compute"],
        d2h_p50_ms=parts["d2h"],
        overhead_p50_ms=_overhead(measured.timings) if measured.run.clock == "cuda_event" else None,
        queries_per_s=rate,
        samples_per_s=rate * samples,
        throughput_ci95=throughput,
        measured_s=measured.measured_s,
        peak_rss_mib=peak_rss_mib(),
        host_mib=measured.host_mib,
        device_mib=device_mib(runner),
        telemetry=None if measured.told is None else _telemetry(measured.told, queries),
        ratio=None if against is None else _ratio(measured, against),
        warnings=(*warnings, *([shortfall] if shortfall else [])),
        notes=runner.notes if isinstance(runner, TellsNotes) else (),
        times=series,
    )


def _figure_interval(
    scenario: Scenario, times: Sequence[float], median: Interval, throughput: Interval | None
) -> Interval | None:
    """The 95% interval of the number that a scenario is about."""
    if scenario.percent is not None:
        return percentile_interval(times, scenario.percent)
    return throughput if scenario.figure == "samples_per_s" else median


def _overhead(timings: Series) -> float:
    """The median of what the caller waits beyond the device's own time, ms."""
    return percentile(np.asarray(timings.host_ms) - np.asarray(timings.latency_ms), 50)


def _throughput(measured: Measured) -> tuple[float, Interval | None]:
    """Queries a second, and their interval: of bursts, else of one query after another."""
    if measured.bursts:
        total = sum(count for count, _ in measured.bursts) / sum(seconds for _, seconds in measured.bursts)
        ends = mean_interval(measured.apart_s)
        return total, None if ends is None else (1 / ends[1], 1 / ends[0])
    host_s = measured.timings.host_s
    return (len(measured.timings) / host_s if host_s > 0 else math.inf), None


def _telemetry(told: Told, queries: int) -> dict[str, Any]:
    return {**told.to_json(), "energy_mj_per_query": told.energy_mj_per_inference(queries)}


def _ratio(measured: Measured, against: Measured) -> dict[str, Any]:
    """Median time against another's, and throughput; each with its 95% interval."""
    mine, other = measured.latencies, against.latencies
    found: dict[str, Any] = {
        "against": against.contender.file,
        "p50": percentile(mine, 50) / percentile(other, 50),
        "ci95": list(ratio_interval(mine, other)),
    }
    if measured.bursts and against.bursts:
        samples = measured.shape.samples * measured.shape.runs / (against.shape.samples * against.shape.runs)
        ends = mean_ratio_interval(against.apart_s, measured.apart_s)
        found["throughput"] = samples * _throughput(measured)[0] / _throughput(against)[0]
        found["throughput_ci95"] = None if ends is None else [samples * end for end in ends]
    return found


def ratios(rows: Sequence[BenchRow]) -> Mapping[str, Any] | None:
    """Return the ratio of each row but the first by its file; None where there is none."""
    return {one.file: dict(one.ratio) for one in rows if one.ratio is not None} or None
