"""Scenarios: trtexec's latency, and MLPerf's SingleStream, MultiStream and Offline, as short runs.

MLPerf Inference Rules, section 3, and LoadGen's `mlperf.conf`: what differs here is told in each row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from mmtrt.errors import UsageError

__all__ = ["SCENARIOS", "Scenario", "ScenarioName", "scenario_of"]

ScenarioName = Literal["latency", "single-stream", "multi-stream", "offline"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What one query is, and which number is the result.

    `samples` is the number of samples in a query, 0 where it is the largest batch, None where the shapes say it.
    `percent` is the percentile that is the result, None where that is the throughput. MLPerf's own run takes at least
    `mlperf_s` seconds and `mlperf_queries` queries, or samples where the queries have no percentile.
    """

    name: ScenarioName
    figure: str
    samples: int | None = None
    percent: int | None = None
    mlperf_s: float = 0.0
    mlperf_queries: int = 0
    mlperf_name: str = ""

    @property
    def host_clock(self) -> bool:
        """Whether times are the caller's, as LoadGen takes them, with all copies."""
        return self.name != "latency"

    def shortfall(self, measured_s: float, queries: int, samples: int) -> str | None:
        """Say what an MLPerf run would have had more of; None where this one had enough, or is none of MLPerf's."""
        if not self.mlperf_s:
            return None
        count, word = (queries, "queries") if self.percent is not None else (samples, "samples")
        if measured_s >= self.mlperf_s and count >= self.mlperf_queries:
            return None
        return (
            f"no MLPerf result: {measured_s:.3g} s and {count} {word}, "
            f"where {self.mlperf_name} asks for {self.mlperf_s:g} s and {self.mlperf_queries} {word}"
        )


SCENARIOS: Final[Mapping[str, Scenario]] = MappingProxyType(
    {
        scenario.name: scenario
        for scenario in (
            Scenario(name="latency", figure="p50_ms"),
            Scenario(
                name="single-stream",
                figure="p90_ms",
                samples=1,
                percent=90,
                mlperf_s=600,
                mlperf_queries=64,
                mlperf_name="SingleStream",
            ),
            Scenario(
                name="multi-stream",
                figure="p99_ms",
                samples=8,
                percent=99,
                mlperf_s=600,
                mlperf_queries=662,
                mlperf_name="MultiStream",
            ),
            Scenario(
                name="offline",
                figure="samples_per_s",
                samples=0,
                mlperf_s=600,
                mlperf_queries=24_576,
                mlperf_name="Offline",
            ),
        )
    }
)


def scenario_of(name: str) -> Scenario:
    """Return a scenario by its name; UsageError names the known ones."""
    if name not in SCENARIOS:
        raise UsageError(f"there is no scenario {name!r}", fix=f"Known are {', '.join(SCENARIOS)}.")
    return SCENARIOS[name]
