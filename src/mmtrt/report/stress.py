"""The table of a check's hard cases: a row per kind, and below it each case that fails or could not be judged."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from rich.console import RenderableType
from rich.text import Text

from mmtrt.report.cells import db, new_table
from mmtrt.results import OutputResult, StressResult

__all__ = ["stress_lines", "stress_view"]

_MARKS = {"pass": "[green]pass[/]", "fail": "[red]FAIL[/]"}
_WORST_FIRST = ("fail", "inconclusive", "reference not finite", "reference refuses", "not run", "pass")


def stress_view(cases: Sequence[StressResult]) -> list[RenderableType]:
    """Return the table and the lines below it; nothing where there are no cases."""
    if not cases:
        return []
    kinds: dict[str, list[StressResult]] = {}
    for case in cases:
        kinds.setdefault(case.kind, []).append(case)
    table = new_table()
    for heading in ("stress", "cases", "worst", "output", "SQNR dB", "held to", "verdict"):
        table.add_column(heading, justify="right" if heading in {"cases", "SQNR dB"} else "left")
    for kind, own in kinds.items():
        worst = min(own, key=_rank)
        name, output = _worst_output(worst)
        held = _bounds(output.budget) if output else ""
        mark = _MARKS.get(worst.verdict, f"[yellow]{worst.verdict}[/]")
        ratio = db(output.metrics) if output and output.metrics else ""
        table.add_row(kind, str(len(own)), Text(worst.name), Text(name), ratio, Text(held), mark)
    return ["", table, *stress_lines(cases), *_notes(cases)]


def stress_lines(cases: Sequence[StressResult]) -> list[Text]:
    """Return a line for each output that fails, and for each case or output that could not be judged."""
    return [line for case in cases for line in _told(case)]


def _notes(cases: Sequence[StressResult]) -> list[Text]:
    """What a reader must know of cases that were judged, told once."""
    return [Text(note) for note in dict.fromkeys(f"stress {c.kind}: {c.note}" for c in cases if c.note and _judged(c))]


def _told(case: StressResult) -> Iterator[Text]:
    what = f"stress {case.kind}, {case.name}"
    style = "red" if case.verdict in {"fail", "inconclusive"} else "yellow"
    if not _judged(case):
        yield Text(f"{what}: {case.verdict}: {case.note}", style=style)
    for name, output in case.outputs.items():
        for why in output.why:
            yield Text(f"{what}: output {name!r}: {why}", style="red")
        if output.verdict == "reference not finite":
            yield Text(f"{what}: output {name!r}: reference not finite; the rest agrees", style="yellow")


def _judged(case: StressResult) -> bool:
    return bool(case.outputs)


def _rank(case: StressResult) -> tuple[int, float]:
    _, output = _worst_output(case)
    return _WORST_FIRST.index(case.verdict), _margin(output) if output else -math.inf


def _worst_output(case: StressResult) -> tuple[str, OutputResult | None]:
    """The output that fails, else the one that is nearest to its bound."""
    if not case.outputs:
        return "", None
    return min(case.outputs.items(), key=lambda item: (_WORST_FIRST.index(item[1].verdict), _margin(item[1])))


def _margin(output: OutputResult) -> float:
    """DB above the bound; an exact match is infinitely far above, one that JSON has no number for as far below."""
    value = output.metrics.get("sqnr_db")
    if value is None:
        return math.inf if output.metrics.get("max_abs") == 0 else -math.inf
    return value - output.budget.get("sqnr_db", 0.0)


def _bounds(budget: Mapping[str, float]) -> str:
    return ", ".join(f"{metric} {bound:g}" for metric, bound in budget.items() if metric != "non_finite" or bound)
