"""What tables share: how they look, and how a number, a share and a verdict are written."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from mmtrt.results import Verdict

__all__ = ["db", "decimals", "mark", "new_table", "percent"]

_MARKS = {
    "pass": "[green]pass[/]",
    "fail": "[red]FAIL[/]",
    "not run": "[yellow]not run[/]",
    "inconclusive": "[yellow]inconclusive[/]",
}


def new_table(title: str | None = None) -> Table:
    """Return an empty table in the one style."""
    # Names of files and outputs may hold brackets, which Rich would take for markup: they go in as Text.
    shown = None if title is None else Text(title)
    return Table(title=shown, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False)


def mark(verdict: Verdict) -> str:
    """Return a verdict in its colour."""
    return _MARKS.get(verdict, verdict)


def db(metrics: Mapping[str, float | int | None]) -> str:
    """Write an SQNR. JSON has no infinity: None is that of an exact match, or of one that is no match at all."""
    value = metrics["sqnr_db"]
    if value is not None:
        return f"{value:.1f}"
    return "exact" if metrics["max_abs"] == 0 and not metrics["non_finite"] else "none"


def percent(value: float | None) -> str:
    """Write a share in hundredths, two decimals; nothing for None."""
    return "" if value is None else f"{100 * value:.2f}"


def decimals(value: float | None, form: str) -> str:
    """Write a number; nothing for None."""
    return "" if value is None else format(value, form)
