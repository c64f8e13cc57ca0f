"""A benchmark for people: a row per file and shape, what each number is, and what to doubt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from mmtrt.report.bench_layers import layer_times_view
from mmtrt.report.cells import decimals, new_table
from mmtrt.results import BenchResult, BenchRow
from mmtrt.tensors import format_shape

__all__ = ["bench_view", "named", "shapes_text", "sizes_text"]

_LEFT = {"file", "clock", "runs", "sizes"}
_Column = tuple[str, Callable[[BenchRow], str | Text]]


def bench_view(bench: BenchResult) -> RenderableType:
    """Return all that a benchmark says: the table, the parts of the time, warnings, the machine, the gate."""
    lines: list[RenderableType] = [_table(bench.results)]
    parts = [row for row in bench.results if row.compute_p50_ms is not None or row.enqueue_p50_ms is not None]
    if parts:
        lines += ["", Text("medians of the parts, ms", style="bold"), _parts(parts)]
    for row in bench.results:
        if row.layers:
            lines += ["", layer_times_view(row.layers, named(row))]
    lines += [Text(f"not run: {file}: {why}", style="yellow") for file, why in bench.not_run.items()]
    lines += [Text(f"note: {told}") for told in _each(bench.results, lambda row: row.notes)]
    lines += [Text(f"warning: {told}", style="yellow") for told in _each(bench.results, lambda row: row.warnings)]
    if bench.telemetry:
        lines.append(Text(_telemetry(bench.telemetry)))
    lines.append(Text(_conditions(bench)))
    if bench.gate is not None:
        lines += [Text(line) for line in _gate(bench.gate)]
    return Group(*lines)


def _table(rows: Sequence[BenchRow]) -> RenderableType:
    columns = _who(rows)
    columns += [(f"{name} ms", _number(f"{name}_ms", ".3f")) for name in ("p50", "p90", "p95", "p99", "mean")]
    columns += [
        ("cv %", lambda row: "" if row.cv is None else f"{100 * row.cv:.1f}"),
        ("n", lambda row: str(row.n)),
        ("samples/s", lambda row: "" if row.samples_per_s is None else _rate(row.samples_per_s)),
    ]
    if any(row.early_stopping_ms is not None for row in rows):
        columns.append(("early stop ms", _number("early_stopping_ms", ".3f")))
    if any(row.telemetry for row in rows):
        columns += [
            ("mJ/query", lambda row: decimals((row.telemetry or {}).get("energy_mj_per_query"), ".2f")),
            ("W", lambda row: _watts(row.telemetry or {})),
        ]
    if any(row.ratio for row in rows):
        columns.append(("ratio", lambda row: Text(_ratio(row.ratio))))
    columns += [
        ("clock", lambda row: row.clock),
        ("CUDA graph", lambda row: "on" if row.cuda_graph else "off"),
        ("transfers", lambda row: "in" if row.transfers else "out"),
        ("runs", lambda row: Text(row.runs)),
    ]
    return _filled(columns, rows)


def _parts(rows: Sequence[BenchRow]) -> RenderableType:
    """The parts of a query: medians, which need not add up to the median of the whole."""
    columns = _who(rows)
    for heading, name in (
        ("H2D", "h2d_p50_ms"),
        ("GPU compute", "compute_p50_ms"),
        ("D2H", "d2h_p50_ms"),
        ("enqueue", "enqueue_p50_ms"),
        ("host", "host_p50_ms"),
        ("host - GPU", "overhead_p50_ms"),
    ):
        columns.append((heading, _number(name, ".4f")))
    return _filled(columns, rows)


def _who(rows: Sequence[BenchRow]) -> list[_Column]:
    """Return the columns that tell a row from the others."""
    columns: list[_Column] = [("file", lambda row: Text(row.file))]
    if any(row.sizes for row in rows):
        columns.append(("sizes", lambda row: Text(sizes_text(row))))
    return columns


def _filled(columns: Sequence[_Column], rows: Sequence[BenchRow]) -> RenderableType:
    table = new_table()
    for heading, _ in columns:
        table.add_column(heading, justify="left" if heading in _LEFT else "right")
    for row in rows:
        table.add_row(*(cell(row) for _, cell in columns))
    return table


def _number(name: str, form: str) -> Callable[[BenchRow], str]:
    return lambda row: decimals(getattr(row, name), form)


def _rate(value: float) -> str:
    return f"{value:.1f}" if value < 1000 else f"{value:,.0f}"


def _watts(told: Mapping[str, Any]) -> str:
    return decimals((told.get("power_w") or {}).get("mean"), ".0f")


def _ratio(ratio: Mapping[str, Any] | None) -> str:
    return f"{ratio['p50']:.2f} [{ratio['ci95'][0]:.2f}, {ratio['ci95'][1]:.2f}]" if ratio else ""


def _each(rows: Sequence[BenchRow], texts: Callable[[BenchRow], Sequence[str]]) -> list[str]:
    """A line for each kind of text, by the word before its colon: the first row's, and how many more there are."""
    kinds: dict[str, list[str]] = {}
    for row in rows:
        for told in texts(row):
            kinds.setdefault(told.partition(":")[0], []).append(f"{named(row)}: {told}")
    return [
        first + (f" (and {len(rest)} more {'row' if len(rest) == 1 else 'rows'}: --json tells all)" if rest else "")
        for first, *rest in kinds.values()
    ]


def named(row: BenchRow) -> str:
    """Return a row's file, and its sizes where a sweep gave it some."""
    return f"{row.file} at {sizes_text(row)}" if row.sizes else row.file


def sizes_text(row: BenchRow) -> str:
    """Return the sizes that a sweep gave a row: `batch 4, text 16`."""
    return ", ".join(f"{name} {size}" for name, size in row.sizes.items())


def shapes_text(shapes: Mapping[str, Sequence[int]]) -> str:
    """Return the shapes of a row's inputs, as trtexec writes them."""
    return ",".join(f"{name}:{format_shape(shape)}" for name, shape in shapes.items())


def _conditions(bench: BenchResult) -> str:
    where = f"{bench.machine['cpu']}, {bench.machine['cores']} cores"
    first = bench.results[0]
    shapes = "" if any(row.sizes for row in bench.results) else f"shapes {shapes_text(first.shapes)}; "
    scenario = "" if first.scenario == "latency" else f"{first.scenario}: {first.figure} is the result; "
    return f"{scenario}{shapes}{where}"


def _telemetry(told: Mapping[str, Any]) -> str:
    found = [
        f"{words} {told[name]['mean']:.0f} ({told[name]['min']:.0f} to {told[name]['max']:.0f}) {unit}"
        for name, words, unit in (
            ("sm_clock_mhz", "SM clock", "MHz"),
            ("temperature_c", "temperature", "°C"),
            ("power_w", "power", "W"),
        )
        if told.get(name)
    ]
    if told.get("throttle"):
        found.append(f"held back by {', '.join(told['throttle'])}")
    return f"{told.get('device')}: {', '.join(found)}"


def _gate(gate: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{row['file']}{' at ' + row['at'] if row['at'] else ''}: {row['verdict']}: {row['why']}"
        for row in gate["rows"]
    ]
    return [f"against {gate['baseline']}: {gate['verdict']}", *lines]
