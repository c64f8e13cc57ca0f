"""What a benchmark measured: a row per file and shape, and how each compares with the first file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from mmtrt.results.plain import plain

__all__ = ["BenchResult", "BenchRow"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRow:
    """Latencies of one file at one shape in ms, by order statistic; `clock` is `cuda_event` or `host`.

    A query is one call: `samples` of a batch. `cv` is the standard deviation over the mean, `drift` how much larger the
    second half's median is than the first's, both shares of 1. `p50_ci95_ms` is the 95% interval of the median within
    this run. `host_p50_ms` and the parts below it are medians too; `overhead_p50_ms` that of host time less device
    time. A part that was not measured is None. `queries_per_s` and `samples_per_s` are those of queries sent one
    ahead; `throughput_ci95` is the 95% interval of `samples_per_s`. `peak_rss_mib` is the process's, all files in it;
    `host_mib` what loading this one and warming it up added, `device_mib` what it holds of the GPU's.
    """

    file: str
    runs: str
    clock: Literal["cuda_event", "host"]
    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    n: int
    cuda_graph: bool
    transfers: bool
    shapes: Mapping[str, tuple[int, ...]]
    precision: str = ""
    digest: str = ""
    scenario: str = "latency"
    figure: str = "p50_ms"
    """Which number of the row its scenario is about."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    samples: int = 1
    p95_ms: float | None = None
    min_ms: float | None = None
    max_ms: float | None = None
    cv: float | None = None
    drift: float | None = None
    p50_ci95_ms: tuple[float, float] | None = None
    figure_ci95: tuple[float, float] | None = None
    early_stopping_ms: float | None = None
    """MLPerf's estimate of the scenario's percentile, which 99 of 100 such runs don't set too low."""
    host_p50_ms: float | None = None
    enqueue_p50_ms: float | None = None
    h2d_p50_ms: float | None = None
    compute_p50_ms: float | None = None
    d2h_p50_ms: float | None = None
    overhead_p50_ms: float | None = None
    queries_per_s: float | None = None
    samples_per_s: float | None = None
    throughput_ci95: tuple[float, float] | None = None
    measured_s: float | None = None
    peak_rss_mib: float | None = None
    host_mib: float | None = None
    device_mib: float | None = None
    telemetry: Mapping[str, Any] | None = None
    layers: Mapping[str, Any] | None = None
    ratio: Mapping[str, Any] | None = None
    """Against the first file at the same shape: `against`, `p50`, `ci95`, and the same of throughput."""
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What the runner says of itself: what compiling took, say."""
    times: Mapping[str, Sequence[float]] = field(default_factory=dict, compare=False, repr=False)
    """Each run's `latency_ms` and so on, in the order of the runs; no part of the JSON."""

    def to_json(self) -> dict[str, Any]:
        """Return the row as it stands under `results`."""
        return {f.name: plain(getattr(self, f.name)) for f in fields(self) if f.name != "times"}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> BenchRow:
        """Read what `to_json` gave, of an older mmtrt too; KeyError or TypeError where it is none."""
        known = {f.name for f in fields(cls)} - {"times"}
        kept = {name: value for name, value in row.items() if name in known}
        kept["shapes"] = {name: tuple(shape) for name, shape in row["shapes"].items()}
        for name in ("p50_ci95_ms", "figure_ci95", "throughput_ci95"):
            if kept.get(name) is not None:
                low, high = kept[name]
                kept[name] = (low, high)
        texts = {name: tuple(kept.get(name, ())) for name in ("warnings", "notes")}
        return cls(**{**kept, **texts})


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """Rows that were measured in turn in one process, and how each compares with the first.

    `ratio` is told by file where there is one shape; rows of a sweep tell theirs themselves. `settings` are what was
    asked for, `telemetry` what was sampled over all rows together, `gate` what became of a comparison with an earlier
    run.
    """

    results: tuple[BenchRow, ...]
    machine: Mapping[str, Any]
    ratio: Mapping[str, Any] | None = None
    not_run: Mapping[str, str] = field(default_factory=dict)
    cached: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    telemetry: Mapping[str, Any] | None = None
    gate: Mapping[str, Any] | None = None

    @classmethod
    def from_json(
        cls, data: Mapping[str, Any], *, not_run: Mapping[str, str] | None = None, cached: bool = False
    ) -> BenchResult:
        """Read what `to_json` gave."""
        return cls(
            results=tuple(BenchRow.from_json(row) for row in data["results"]),
            machine=data["machine"],
            ratio=data["ratio"],
            not_run=data.get("not_run", {}) if not_run is None else not_run,
            cached=cached,
            settings=data.get("settings", {}),
            telemetry=data.get("telemetry"),
            gate=data.get("gate"),
        )

    def to_json(self) -> dict[str, Any]:
        """Return `mmtrt.bench/1`."""
        rest = {f.name: plain(getattr(self, f.name)) for f in fields(self) if f.name != "results"}
        return {"schema": "mmtrt.bench/1", "results": [row.to_json() for row in self.results], **rest}
