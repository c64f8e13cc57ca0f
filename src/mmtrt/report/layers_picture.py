"""Where the time of each file goes, as a picture: a bar per file, a colour per branch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmtrt.artifacts import whole_file
from mmtrt.report.picture import check_picture

__all__ = ["layers_picture"]

_MOST = 24
"""Bars in one picture."""
_LEAST = 0.04
"""Of the longest bar: in a narrower part no number has room."""


def layers_picture(found: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw what `LayerTimes.to_json` gave of each file, to the same scale; UsageError as `check_picture`."""
    check_picture(path)
    from matplotlib.figure import Figure

    shown = found[:_MOST]
    names = list(dict.fromkeys(name for one in shown for name in one["branches"]))
    colours = {name: "lightgrey" if name == "unknown" else f"C{index % 10}" for index, name in enumerate(names)}
    longest = max((max(one["sum_ms"], one["latency_ms"] or 0) for one in shown), default=0) or 1
    figure = Figure(figsize=(10, 1.4 + 0.6 * len(shown)), layout="constrained")
    axis = figure.subplots()
    for place, one in enumerate(shown):
        left = 0.0
        for name, row in one["branches"].items():
            axis.barh(place, row["ms"], left=left, color=colours[name])
            if row["ms"] >= _LEAST * longest:
                axis.text(left + row["ms"] / 2, place, f"{row['ms']:.2f}", ha="center", va="center", fontsize="x-small")
            left += row["ms"]
        if one["latency_ms"]:
            axis.plot([one["latency_ms"]] * 2, [place - 0.45, place + 0.45], color="black")
    axis.set_yticks(range(len(shown)), [one["file"] for one in shown], fontsize="small", parse_math=False)
    axis.invert_yaxis()
    more = f"; the first {_MOST} of {len(found)} rows" if len(found) > _MOST else ""
    axis.set_xlabel(f"ms a run, by kernel; the black line is a whole run that nobody profiles{more}")
    for name in names:
        axis.barh(0, 0, color=colours[name], label=name)
    figure.legend(fontsize="x-small", ncols=4, loc="outside lower center")
    with whole_file(path) as part:
        figure.savefig(part, format=path.suffix[1:])
