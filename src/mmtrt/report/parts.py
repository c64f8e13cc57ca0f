"""Tables of a pipeline: each part, then all of them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mmtrt.report.cells import mark
from mmtrt.report.terminal import run_view
from mmtrt.results import BenchResult, BuildResult, CheckResult

__all__ = ["PartRow", "parts_run_view"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartRow:
    """What all stages gave for one part."""

    export: Mapping[str, Any]
    builds: tuple[BuildResult, ...]
    checks: tuple[CheckResult, ...]
    bench: BenchResult
    engine_bench: BenchResult | None

    @property
    def cached(self) -> bool:
        """Nothing had to be done."""
        checks = [check.cached for check in self.checks if check.verdict != "not run"]
        return all([*(build.cached for build in self.builds), *checks, self.bench.cached]) and not self.engine_bench

    def to_json(self) -> dict[str, Any]:
        """Return what `mmtrt.run/1` has of a model."""
        return {
            "export": dict(self.export),
            "builds": [build.to_json() for build in self.builds],
            "checks": [check.to_json() for check in self.checks],
            "bench": self.bench.to_json(),
            "engine_bench": self.engine_bench.to_json() if self.engine_bench else None,
        }


def parts_run_view(
    parts: Mapping[str, PartRow],
    chains: Mapping[str, Mapping[str, str]],
    checks: Sequence[CheckResult],
    bench: BenchResult,
    engines: BenchResult | None,
) -> RenderableType:
    """A table per part as a run of it alone has, then one row per chain."""
    shown: list[RenderableType] = []
    for name, part in parts.items():
        shown += [Text(name, style="bold"), run_view(part.builds, part.checks, part.bench, part.engine_bench), ""]
    return Group(*shown, Text("end to end", style="bold"), _chains(chains, checks, bench, engines))


def _chains(
    chains: Mapping[str, Mapping[str, str]],
    checks: Sequence[CheckResult],
    bench: BenchResult,
    engines: BenchResult | None,
) -> RenderableType:
    table = Table(header_style="bold", box=None, pad_edge=False)
    for heading in ("", "parts", "SQNR dB", "phrases equal", "p50 ms", "parity", "ran"):
        table.add_column(heading, justify="right" if heading in {"SQNR dB", "phrases equal", "p50 ms"} else "left")
    times = {row.file: row.p50_ms for result in (bench, engines) if result for row in result.results}
    first = bench.results[0]
    table.add_row("PyTorch", "", "", "", f"{first.p50_ms:.2f}", "", Text(_short(first.runs)))
    failures: list[Text] = []
    for check in checks:
        precisions = chains[check.candidate.precision]
        spoken = ", ".join(f"{part} {precision}" for part, precision in precisions.items())
        ran = check.candidate.runs or check.candidate.note.partition(":")[0]
        table.add_row(
            Text(check.candidate.what),
            Text(spoken),
            _sqnr(check),
            _phrases(check),
            f"{times[check.candidate.what]:.2f}" if check.candidate.what in times else "",
            mark(check.verdict) if check.candidate.runs else "[yellow]built, not run[/]",
            Text(_short(ran)),
        )
        failures += [
            Text(f"{check.candidate.what}: output {name!r}: {why}", style="red")
            for name, output in check.outputs.items()
            for why in output.why
        ]
    return Group(table, *failures)


def _sqnr(check: CheckResult) -> str:
    """The lowest of all outputs; JSON has no infinity, so that None is an exact match or none at all."""
    found = [output.metrics for output in check.outputs.values()]
    numbers = [metrics["sqnr_db"] for metrics in found if metrics["sqnr_db"] is not None]
    if any(metrics["sqnr_db"] is None and metrics["max_abs"] != 0 for metrics in found):
        return "none"
    return f"{min(numbers):.1f}" if numbers else ("exact" if found else "")


def _phrases(check: CheckResult) -> str:
    shares = [output.metrics.get("phrase_agreement") for output in check.outputs.values()]
    return next((f"{100 * share:.1f} % of {check.samples}" for share in shares if share is not None), "")


def _short(runs: str) -> str:
    """Without a version's local part, `2.13.0+cpu`."""
    return " ".join(word.split("+")[0] for word in runs.split(" ") if word != "eager")
