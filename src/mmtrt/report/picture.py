"""Pictures of results, with matplotlib: `pip install 'mmtrt[plot]'`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmtrt.artifacts import whole_file
from mmtrt.errors import UsageError

__all__ = ["check_picture", "sensitivity_picture"]

_SHOWN = 30
_SUFFIXES = (".png", ".svg", ".pdf")


def check_picture(path: Path) -> None:
    """Raise UsageError where a picture can't be drawn, before what it shows is measured."""
    if path.suffix not in _SUFFIXES:
        raise UsageError(f"a picture can't be a {path.suffix or 'file without suffix'}", fix="Give .png, .svg or .pdf.")
    if find_spec("matplotlib") is None:
        raise UsageError("pictures need matplotlib", fix="pip install 'mmtrt[plot]'")


def sensitivity_picture(found: Mapping[str, Any], path: Path) -> None:
    """Draw what branches and layers lose alone: SQNR of the output that each hurts most; UsageError as above."""
    check_picture(path)
    from matplotlib.figure import Figure

    branches = list(dict.fromkeys(row["branch"] for row in found["branches"]))
    layers = found["layers"][:_SHOWN]
    heights = [max(len(rows), 1) for rows in (found["branches"], layers)]
    figure = Figure(figsize=(10, 1.6 + 0.28 * sum(heights)), layout="constrained")
    axes = figure.subplots(2, 1, height_ratios=heights)
    colours = {name: f"C{index % 10}" for index, name in enumerate(branches)}
    _bars(axes[0], found["branches"], colours, "branches in INT8, one at a time")
    more = f" (the {_SHOWN} most sensitive of {len(found['layers'])})" if len(found["layers"]) > _SHOWN else ""
    _bars(axes[1], layers, colours, f"layers in INT8, one at a time{more}")
    axes[1].set_xlabel("SQNR of the output that is hurt most, dB: less is worse")
    with whole_file(path) as part:
        figure.savefig(part, format=path.suffix[1:])


def _bars(axis: Any, rows: Sequence[Mapping[str, Any]], colours: Mapping[str, str], title: str) -> None:
    known = [(row, [value for value in row["sqnr_db"].values() if value is not None]) for row in rows]
    shown = [(row, min(values)) for row, values in known if values]
    places = range(len(shown))
    axis.barh(places, [value for _, value in shown], color=[colours.get(row["branch"], "grey") for row, _ in shown])
    labels = [f"{row['module']}  {100 * row['mac_share']:.1f} %" for row, _ in shown]
    axis.set_yticks(places, labels, fontsize="small")
    axis.invert_yaxis()
    axis.set_title(f"{title}; % of the work", loc="left", fontsize="medium")
