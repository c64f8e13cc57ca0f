"""What stages measured: plain frozen data. Tables, JSON and HTML are views on it."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = [
    "BenchResult",
    "BenchRow",
    "BuildResult",
    "CheckResult",
    "OutputResult",
    "Ran",
    "Verdict",
    "plain",
]

Verdict = Literal["pass", "fail", "inconclusive", "not run"]


def plain(value: Any) -> Any:
    """Return JSON data: NaN and infinities become None, NumPy's numbers Python's, tuples lists, paths text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    return str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What really ran: the file or source, its precision, and where with which versions; `runs` empty: it did not."""

    what: str
    runs: str
    precision: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """What `build` made; paths are where the user finds the files."""

    precision: str
    flavor: str
    flavor_version: str
    artifacts: Mapping[str, str]
    engine_bytes: int
    onnx_bytes: int
    build_s: float
    int8: Mapping[str, Any] | None
    calibration: Mapping[str, Any] | None
    kept: tuple[Mapping[str, str], ...] = ()
    search: Mapping[str, Any] | None = None
    layers: Mapping[str, Any] | None = None
    ran_on_gpu: bool = False
    cached: bool = False
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return `mmtrt.build/1`."""
        return {"schema": "mmtrt.build/1", **plain(asdict(self))}


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputResult:
    """One output's metrics, its budget, and the verdict; `why` names each metric that is out."""

    metrics: Mapping[str, float | int | None]
    task: Mapping[str, float] = field(default_factory=dict)
    reference_task: Mapping[str, float] = field(default_factory=dict)
    budget: Mapping[str, float] = field(default_factory=dict)
    verdict: Verdict = "pass"
    why: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the metrics flat, as the schema has them."""
        return plain(  # type: ignore[no-any-return]
            {
                **self.metrics,
                "task": self.task,
                "reference_task": self.reference_task,
                "budget": self.budget,
                "verdict": self.verdict,
                "why": self.why,
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """A candidate against a reference over a set of samples."""

    verdict: Verdict
    candidate: Ran
    reference: Ran
    samples: int
    outputs: Mapping[str, OutputResult]
    cached: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return `mmtrt.check/1`."""
        return {
            "schema": "mmtrt.check/1",
            "verdict": self.verdict,
            "candidate": plain(asdict(self.candidate)),
            "reference": plain(asdict(self.reference)),
            "samples": self.samples,
            "outputs": {name: output.to_json() for name, output in self.outputs.items()},
            "cached": self.cached,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRow:
    """Latencies of one file in milliseconds; `clock` is `cuda_event` or `host`."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """Rows that were measured in turn in one process, and how each compares with the first."""

    results: tuple[BenchRow, ...]
    machine: Mapping[str, Any]
    ratio: Mapping[str, Any] | None = None
    not_run: Mapping[str, str] = field(default_factory=dict)
    cached: bool = False

    @classmethod
    def from_json(cls, data: Mapping[str, Any], *, not_run: Mapping[str, str], cached: bool) -> BenchResult:
        """Read what `to_json` gave."""
        rows = tuple(
            BenchRow(**{**row, "shapes": {name: tuple(shape) for name, shape in row["shapes"].items()}})
            for row in data["results"]
        )
        return cls(results=rows, machine=data["machine"], ratio=data["ratio"], not_run=not_run, cached=cached)

    def to_json(self) -> dict[str, Any]:
        """Return `mmtrt.bench/1`."""
        return {"schema": "mmtrt.bench/1", **plain(asdict(self))}
