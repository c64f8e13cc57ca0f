"""Where the time of an inference goes, for people: branches, and the dearest layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from mmtrt.report.cells import new_table
from mmtrt.report.slower import slower_view

__all__ = ["layer_times_view"]

_SHOWN = 10


def layer_times_view(told: Mapping[str, Any], title: str) -> RenderableType:
    """Return the branches, the dearest layers, and how much of the time these account for; see `LayerTimes`."""
    branches = new_table()
    for heading in ("branch", "ms", "%"):
        branches.add_column(heading, justify="left" if heading == "branch" else "right")
    for name, row in told["branches"].items():
        branches.add_row(Text(name), f"{row['ms']:.4f}", f"{100 * row['share']:.1f}")
    begin = Text(f"where the time of {title} goes", style="bold")
    slower = ["", slower_view(told["slower"])] if told.get("slower") else []
    return Group(begin, branches, "", _layers(told["layers"]), Text(_account(told)), *slower)


def _layers(layers: Sequence[Mapping[str, Any]]) -> RenderableType:
    table = new_table()
    for heading in ("layer", "kind", "branch", "module", "precision", "ms", "%"):
        table.add_column(heading, justify="right" if heading in {"ms", "%"} else "left")
    for row in sorted(layers, key=lambda one: -one["ms"])[:_SHOWN]:
        names = (row["name"], row["kind"], row["branch"], row["module"], row["precision"])
        table.add_row(*map(Text, names), f"{row['ms']:.4f}", f"{100 * row['share']:.1f}")
    return table


def _account(told: Mapping[str, Any]) -> str:
    count = len(told["layers"])
    parts = [f"{count} layers{f', the dearest {_SHOWN} shown' if count > _SHOWN else ''}, by {told['source']}"]
    if told["attributed"] is not None:
        parts.append(f"together {100 * told['attributed']:.0f} % of a run that nobody profiles")
    if told["mixed"]:
        parts.append(f"{100 * told['mixed']:.0f} % in layers of several branches")
    if told["unknown"]:
        parts.append(f"{100 * told['unknown']:.0f} % of no known branch")
    return "; ".join([*parts, *told["notes"]])
