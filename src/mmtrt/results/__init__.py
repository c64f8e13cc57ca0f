"""What stages measured: plain frozen data. Tables, JSON and HTML are views on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from mmtrt.results.benchmarks import BenchResult, BenchRow
from mmtrt.results.bundles import BundleResult, TargetState
from mmtrt.results.deployments import DeployResult, Mismatch
from mmtrt.results.plain import plain, unplaced

__all__ = [
    "STRESS_KINDS",
    "BenchResult",
    "BenchRow",
    "BuildResult",
    "BundleResult",
    "CheckResult",
    "DeployResult",
    "LayerError",
    "LayerVerdict",
    "Located",
    "Mismatch",
    "OutputResult",
    "Ran",
    "StressResult",
    "TargetState",
    "Verdict",
    "plain",
    "unplaced",
]

Verdict = Literal["pass", "fail", "inconclusive", "not run", "reference not finite", "reference refuses"]
"""Of an output, of a stress, of a whole check. The last three judge nothing, and fail nothing."""

STRESS_KINDS = (
    "corner",
    "batch",
    "length",
    "masked",
    "zeroed",
    "constant",
    "extremes",
    "determinism",
    "batch-invariance",
)
"""The kinds of hard cases that a check runs beside its samples; budgets, recipes and reports speak of them by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What really ran: the file or source, its precision, and where with which versions; `runs` empty: it did not.

    `digest` is that of its content; `model` is the source that it was exported from, where it says so.
    """

    what: str
    runs: str
    precision: str = ""
    note: str = ""
    digest: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """What `build` made; paths are where the user finds the files.

    `reached` is each output's SQNR in dB against the FP32 ONNX, over some of the calibration samples.
    """

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
    reached: Mapping[str, float] = field(default_factory=dict)
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
    """One output's metrics, its budget, and the verdict; `why` names each metric that is out, or can't be told.

    `intervals` holds, by metric, the two ends of the 95% interval of what samples only show: of shares that agree
    (`argmax_agreement`) and of `<task metric>_drop`. `budget` is all that the output was held to, defaults included.
    `kind` is what it was taken for, one of `mmtrt.metrics.KINDS`, empty where nothing says; `note` tells of another
    width of its type.
    """

    metrics: Mapping[str, float | int | None]
    task: Mapping[str, float] = field(default_factory=dict)
    reference_task: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    budget: Mapping[str, float] = field(default_factory=dict)
    verdict: Verdict = "pass"
    why: tuple[str, ...] = ()
    kind: str = ""
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the metrics flat, as the schema has them."""
        return plain(  # type: ignore[no-any-return]
            {
                **self.metrics,
                "task": self.task,
                "reference_task": self.reference_task,
                "intervals": self.intervals,
                "budget": self.budget,
                "verdict": self.verdict,
                "why": self.why,
                "kind": self.kind,
                "note": self.note,
            }
        )

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> OutputResult:
        """Read what `to_json` gave; what is no other field of it is a metric."""
        others = {"task", "reference_task", "intervals", "budget", "verdict", "why", "kind", "note"}
        return cls(
            metrics={name: value for name, value in row.items() if name not in others},
            task=row["task"],
            reference_task=row["reference_task"],
            # What an older mmtrt wrote has none of these.
            intervals={name: (low, high) for name, (low, high) in row.get("intervals", {}).items()},
            budget=row["budget"],
            verdict=row["verdict"],
            why=tuple(row["why"]),
            kind=row.get("kind", ""),
            note=row.get("note", ""),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StressResult:
    """One hard case of a check: its kind and name, the sizes it had, and each output's verdict.

    `note` says why there are no outputs: the reference itself refused the case, or the candidate did.
    """

    kind: str
    name: str
    sizes: Mapping[str, int]
    outputs: Mapping[str, OutputResult]
    verdict: Verdict
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the case as it stands under `stress`."""
        return {
            "kind": self.kind,
            "name": self.name,
            "sizes": dict(self.sizes),
            "outputs": {name: output.to_json() for name, output in self.outputs.items()},
            "verdict": self.verdict,
            "note": self.note,
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> StressResult:
        """Read what `to_json` gave."""
        outputs = {name: OutputResult.from_json(output) for name, output in row["outputs"].items()}
        return cls(**{**row, "outputs": outputs})


LayerVerdict = Literal["clean", "bad", "inherited"]
"""Of a layer: right on right inputs and as it should be; wrong on right inputs; wrong because its inputs are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerError:
    """How far one layer is from the reference, and whether that is its own doing.

    `module` is the PyTorch module's path, `source` the line (`file.py:123`), either empty where the ONNX does not tell.
    `sqnr_db` is the error of `tensor` along the graph, `own_sqnr_db` that of the layer alone on the reference's values,
    None where there is no error, or where it can't be told; `cost_db` the SQNR of the output that suffers most when
    this layer alone is wrong, None where it was no suspect. -300 dB stands for values that are not finite, or that
    should all be zero.
    """

    node: str
    op: str
    module: str
    source: str
    tensor: str
    sqnr_db: float | None
    own_sqnr_db: float | None
    verdict: LayerVerdict
    cost_db: float | None = None
    non_finite: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """Where a candidate leaves its reference: the first bad layer, and all layers in the candidate's order.

    `case` names the hard case that showed it, empty where the samples did; `reduced` tells of the small model.
    """

    first: LayerError | None
    layers: tuple[LayerError, ...]
    candidate: str = ""
    reference: str = ""
    samples: int = 0
    case: str = ""
    note: str = ""
    outputs_db: Mapping[str, float | None] = field(default_factory=dict)
    reduced: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what stands under `located` in a check."""
        return plain(asdict(self))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Located:
        """Read what `to_json` gave."""
        first = LayerError(**data["first"]) if data["first"] else None
        return cls(**{**data, "first": first, "layers": tuple(LayerError(**row) for row in data["layers"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """A candidate against a reference over a set of samples, and over hard cases that are made from it.

    `sample_set` says which samples: `source`, `digest` of what was fed, and `on_data`, false for what was drawn at
    random. `drift` is how it differs from an earlier check, `located` the JSON of `Located`. `note` says why there is a
    verdict without numbers, or with those of a part: the candidate is stale, or the time was out.
    """

    verdict: Verdict
    candidate: Ran
    reference: Ran
    samples: int
    outputs: Mapping[str, OutputResult]
    stress: tuple[StressResult, ...] = ()
    cached: bool = False
    sample_set: Mapping[str, Any] = field(default_factory=dict)
    drift: Mapping[str, Any] | None = None
    note: str = ""
    located: Mapping[str, Any] | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CheckResult:
        """Read what `to_json` gave, but for `cached`."""
        return cls(
            verdict=data["verdict"],
            candidate=Ran(**data["candidate"]),
            reference=Ran(**data["reference"]),
            samples=data["samples"],
            outputs={name: OutputResult.from_json(row) for name, row in data["outputs"].items()},
            stress=tuple(StressResult.from_json(row) for row in data["stress"]),
            sample_set=data.get("sample_set", {}),
            drift=data.get("drift"),
            note=data.get("note", ""),
            located=data.get("located"),
        )

    def to_json(self) -> dict[str, Any]:
        """Return `mmtrt.check/1`."""
        return {
            "schema": "mmtrt.check/1",
            "verdict": self.verdict,
            "candidate": plain(asdict(self.candidate)),
            "reference": plain(asdict(self.reference)),
            "samples": self.samples,
            "outputs": {name: output.to_json() for name, output in self.outputs.items()},
            "stress": [case.to_json() for case in self.stress],
            "sample_set": plain(self.sample_set),
            "drift": None if self.drift is None else plain(self.drift),
            "note": self.note,
            "cached": self.cached,
            "located": plain(self.located),
        }
