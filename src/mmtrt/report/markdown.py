"""A check as Markdown, for the summary of a job or a comment on a pull request: the verdict first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmtrt.report.outcome import by_place, unheld
from mmtrt.results import CheckResult, OutputResult, StressResult

__all__ = ["code", "error_markdown", "escaped", "markdown", "markdown_table"]

_SHOWN = 20
"""Rows of a list that may be long; GitHub takes 1 MiB, a reader less."""
_WORDS = {"pass": "passed", "fail": "FAILED"}


def markdown(check: CheckResult) -> str:
    """Return the summary, with a newline at its end."""
    parts = [
        f"### mmtrt check: {_WORDS.get(check.verdict, check.verdict)}",
        f"{code(check.candidate.what)} against {code(check.reference.what)}, {check.samples} samples"
        + ("" if check.sample_set.get("on_data", True) else " drawn at random, not data"),
        *([f"**{escaped(check.note)}**"] if check.note else []),
        *markdown_table(
            ("output", "verdict", "SQNR dB", "cosine", "max abs", "argmax agrees", "why"),
            [_output_row(name, output) for name, output in check.outputs.items()],
        ),
        *map(escaped, unheld(check)),
        *_stress(check.stress),
        *_drift(check.drift),
        *_located(check.to_json().get("located")),
        _ran(check),
    ]
    return "\n\n".join(parts) + "\n\n"


def error_markdown(candidate: str, against: str, error: str, fix: str | None = None, *, command: str = "check") -> str:
    """Return the summary of a command that ended in an error."""
    sides = f"{code(candidate)} against {code(against)}" if against else code(candidate)
    parts = [f"### mmtrt {command}: error", sides, f"**{escaped(error)}**"]
    return "\n\n".join([*parts, *([escaped(fix)] if fix else [])]) + "\n\n"


def _output_row(name: str, output: OutputResult) -> list[str]:
    metrics = output.metrics
    exact = metrics.get("max_abs") == 0 and not metrics.get("non_finite")
    sqnr = _number(metrics.get("sqnr_db"), ".1f") or ("exact" if exact else "none")
    agrees = metrics.get("argmax_agreement")
    return [
        code(name),
        _WORDS.get(output.verdict, output.verdict),
        sqnr,
        _number(metrics.get("cosine"), ".6f"),
        _number(metrics.get("max_abs"), ".3g"),
        "" if agrees is None else f"{100 * agrees:.2f} %",
        escaped("; ".join(output.why)),
    ]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _stress(cases: Sequence[StressResult]) -> Iterator[str]:
    if not cases:
        return
    bad = [case for case in cases if case.verdict in {"fail", "inconclusive"}]
    untold = [case for case in cases if case.verdict not in {"pass", "fail", "inconclusive"}]
    passed = len(cases) - len(bad) - len(untold)
    yield f"**Hard cases:** {passed} of {len(cases)} passed" + (f", {len(untold)} not judged" if untold else "")
    rows = [[case.kind, escaped(case.name), case.verdict, escaped(_why(case))] for case in (*bad, *untold)]
    yield from markdown_table(("kind", "case", "verdict", "why"), rows)


def _why(case: StressResult) -> str:
    outputs = [f"{name}: {'; '.join(output.why)}" for name, output in case.outputs.items() if output.why]
    return "; ".join([*outputs, *([case.note] if case.note else [])])


def _drift(drift: Mapping[str, Any] | None) -> Iterator[str]:
    if drift is None:
        return
    worse, better = drift["worse"], drift["better"]
    told = f"{len(worse)} worse" if worse else "nothing is worse"
    yield f"**Drift** from {code(str(drift['baseline']))}: {told}" + (f", {len(better)} better" if better else "")
    found = {way: by_place(drift[way]) for way in ("worse", "better")}
    rows = [[escaped(where), way, escaped(why)] for way, places in found.items() for where, why in places.items()]
    yield from markdown_table(("where", "", "what"), rows)


def _located(located: Mapping[str, Any] | None) -> Iterator[str]:
    first = (located or {}).get("first")
    if first:
        where = [f"module {code(str(first['module']))}"] if first.get("module") else []
        where += [f"at {code(str(first['source']))}"] if first.get("source") else []
        where += [f"node {code(str(first['node']))}"] if first.get("node") else []
        yield f"**It starts** in {', '.join(where)}"


def _ran(check: CheckResult) -> str:
    rows = []
    for side, ran in (("candidate", check.candidate), ("reference", check.reference)):
        rows.append(
            [side, code(ran.what), *map(escaped, (ran.runs or "not run", ran.precision, ran.digest[:12], ran.note))]
        )
    (table,) = markdown_table(("", "file", "ran", "precision", "digest", "note"), rows)
    return f"<details><summary>What ran</summary>\n\n{table}\n\n</details>"


# ---------------------------------------------------------------------------------------------------- Markdown


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield one table, cut to what a reader takes in; nothing where there are no rows."""
    if not rows:
        return
    lines = [heads, ["---"] * len(heads), *rows[:_SHOWN]]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    yield text + (f"\n\nand {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else "")


_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~@$&])")


def escaped(text: str) -> str:
    """Escape what Markdown, a table or HTML would take for its own."""
    return _SPECIAL.sub(r"\\\1", _one_line(text)).replace("\\<", "&lt;").replace("\\>", "&gt;").replace("\\&", "&amp;")


def code(text: str) -> str:
    """Write a name as code; backticks and pipes can't stand in the code of a table, so such a name is plain text."""
    line = _one_line(text)
    return f"`{line}`" if line and not set(line) & set("`|") else escaped(line)


def _one_line(text: str) -> str:
    shown = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(shown.split())
