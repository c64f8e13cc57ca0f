"""A benchmark for CI: JUnit XML with a case per row, and Markdown for people who review."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import mmtrt
from mmtrt.report.bench import shapes_text, sizes_text
from mmtrt.report.junit import Case, State, document
from mmtrt.report.markdown import code, escaped, markdown_table
from mmtrt.results import BenchResult, BenchRow

__all__ = ["bench_junit", "bench_markdown"]

_WORDS = {"pass": "passed", "fail": "FAILED"}


def bench_junit(bench: BenchResult) -> bytes:
    """Return a case per row: judged where there is a gate, else passed, with its figures."""
    cases = list(_judged(bench.gate)) if bench.gate is not None else [_told(row) for row in bench.results]
    first = bench.results[0]
    properties = {"mmtrt": mmtrt.__version__, "runs": first.runs, "cpu": str(bench.machine.get("cpu", ""))}
    if bench.gate is not None:
        properties |= {"baseline": str(bench.gate["baseline"]), "verdict": str(bench.gate["verdict"])}
    return document({"rows": cases}, properties, command="bench")


def _judged(gate: Mapping[str, Any]) -> Iterator[Case]:
    for row in gate["rows"]:
        state: State = "pass" if row["verdict"] == "pass" else "failure"
        name = f"{row['file']} {row['at']}".rstrip()
        figures = f"{row['figure']} {row['now']:.7g}, was {row['before']:.7g}"
        yield Case(f"{name} {row['figure']}", "bench", state, row["verdict"], row["why"], figures)


def _told(row: BenchRow) -> Case:
    value = getattr(row, row.figure)
    return Case(f"{row.file} {sizes_text(row)} {row.figure}", "bench", out=f"{row.figure} {value:.7g}, n {row.n}")


def bench_markdown(bench: BenchResult) -> str:
    """Return the verdict where there is a gate, and the rows, with a newline at the end."""
    verdict = f": {_WORDS.get(bench.gate['verdict'], bench.gate['verdict'])}" if bench.gate is not None else ""
    parts = [f"### mmtrt bench{verdict}"]
    if bench.gate is not None:
        limit = f"{100 * bench.gate['limit']:g} %"
        parts.append(f"Against {code(str(bench.gate['baseline']))}; {limit} slower is allowed.")
        parts += markdown_table(("file", "at", "verdict", "why"), [_gate_row(row) for row in bench.gate["rows"]])
        parts += [escaped(note) for note in bench.gate["notes"]]
    heads = ("file", "at", "p50 ms", "p90 ms", "p99 ms", "cv %", "samples/s", "clock", "CUDA graph", "transfers", "ran")
    parts += markdown_table(heads, [_row(row) for row in bench.results])
    parts += [
        escaped(told) for told in dict.fromkeys(f"{row.file}: {t}" for row in bench.results for t in row.warnings)
    ]
    return "\n\n".join(parts) + "\n\n"


def _gate_row(row: Mapping[str, Any]) -> Sequence[str]:
    verdict = _WORDS.get(row["verdict"], row["verdict"])
    return [code(str(row["file"])), escaped(str(row["at"])), verdict, escaped(str(row["why"]))]


def _row(row: BenchRow) -> Sequence[str]:
    return [
        code(row.file),
        escaped(sizes_text(row) or shapes_text(row.shapes)),
        *(f"{value:.3f}" for value in (row.p50_ms, row.p90_ms, row.p99_ms)),
        "" if row.cv is None else f"{100 * row.cv:.1f}",
        "" if row.samples_per_s is None else f"{row.samples_per_s:.1f}",
        escaped(row.clock),
        "on" if row.cuda_graph else "off",
        "in" if row.transfers else "out",
        escaped(row.runs),
    ]
