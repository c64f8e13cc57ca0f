"""Where a build is not faster than another of the same model, for people: which layers, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from mmtrt.report.cells import new_table

__all__ = ["slower_view"]

_SHOWN = 15


def slower_view(told: Mapping[str, Any]) -> RenderableType:
    """Return the parts of the model that lose, the most first, and the whole; see `mmtrt.bench.slower.Builds`."""
    timed = told["ratio"] is not None
    groups = told["slower"]
    verb = "is not" if timed else "may not be"
    head = Text(f"where {told['after']} {verb} faster than {told['before']}", style="bold")
    if not groups:
        return Group(head, Text("nowhere" if timed else f"nothing speaks against it anywhere; {_whole(told)}"))
    table = new_table()
    for heading in ("module", "branch", "ms", "was ms", "precision", "kernels", "why"):
        if timed or "ms" not in heading:
            table.add_column(heading, justify="right" if "ms" in heading else "left")
    for row in groups[:_SHOWN]:
        times = (f"{row['after_ms']:.4f}", f"{row['before_ms']:.4f}") if timed else ()
        precision = " to ".join(dict.fromkeys(filter(None, (row["precision_before"], row["precision_after"]))))
        kernels = f"{len(row['kernels_before'])} to {len(row['kernels_after'])}"
        cells = (row["module"] or "?", row["branch"], *times, precision, kernels, "; ".join(row["why"]))
        table.add_row(*map(Text, cells))
    more = f"{len(groups) - _SHOWN} more; " if len(groups) > _SHOWN else ""
    return Group(head, table, Text(f"{more}{_whole(told)}"))


def _whole(told: Mapping[str, Any]) -> str:
    kernels = f"{told['kernels_before']} kernels became {told['kernels_after']}"
    if told["ratio"] is None:
        return f"{kernels}; by the kernels that the builder tells of: nothing ran"
    return f"{kernels}; all of them together {told['ratio']:.3f} of the time"
