"""How an error grows along the graph: for the terminal, and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mmtrt.artifacts import whole_file
from mmtrt.report.picture import check_picture
from mmtrt.results import LayerError, Located

__all__ = ["growth_picture", "growth_view"]

_AROUND = 3
_MODULES = 30
_CEILING_DB = 120.0
"""What is nearer to the reference than this is drawn as this."""
_PLAIN: dict[str, Any] = {"parse_math": False}
"""Names are no formulas, whatever dollars they have."""
_COLOURS = {"clean": "C0", "inherited": "C1", "bad": "C3"}
_MARKS = {"clean": "", "inherited": "[yellow]inherited[/]", "bad": "[red]BAD[/]"}


def growth_view(found: Located) -> RenderableType:
    """The first bad layer, the layers around it, and the error by module."""
    head = Text(f"{found.candidate} against {found.reference}, node by node, {_where(found)}")
    lines: list[RenderableType] = [head, *_first(found)]
    around = _around(found)
    if around:
        lines.append(_table(around))
    lines.append(_by_module(found))
    if found.reduced:
        told = f"{found.reduced['nodes']} nodes in {found.reduced['onnx']}, arrays in {found.reduced['arrays']}"
        lines.append(Text(f"the smallest ONNX that still fails: {told}"))
    return Group("", *lines)


def _where(found: Located) -> str:
    return f"on the case {found.case}" if found.case else f"on {found.samples} samples"


def _first(found: Located) -> list[Text]:
    first = found.first
    if first is None:
        return [Text("no layer is bad", style="green")]
    what = f"{first.op} {first.node}" + (f": {first.note}" if first.note else "")
    error = f"{_db(first.own_sqnr_db)} by itself, {_db(first.sqnr_db)} with what it inherits"
    cost = f"; alone it leaves an output {_db(first.cost_db)}" if first.cost_db is not None else ""
    return [
        Text(f"first bad layer: {first.module or first.node}", style="bold red"),
        Text(f"  at {first.source or 'a line that the ONNX does not tell'}, {what}"),
        Text(f"  {error}{cost}" + (f" ({found.note})" if found.note else "")),
    ]


def _db(value: float | None) -> str:
    if value is None:
        return "exact"
    return "no signal" if value <= -300 else f"{value:.1f} dB"


def _cell(layer: LayerError, value: float | None) -> str:
    if layer.non_finite:
        return f"{layer.non_finite} not finite"
    return _db(value).removesuffix(" dB")


def _around(found: Located) -> Sequence[LayerError]:
    if found.first is None:
        return ()
    at = found.layers.index(found.first)
    return found.layers[max(at - _AROUND, 0) : at + _AROUND + 1]


def _table(layers: Sequence[LayerError]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("module", "source", "node", "SQNR dB", "own dB", "costs dB", ""):
        table.add_column(heading, justify="right" if heading.endswith("dB") else "left")
    for layer in layers:
        cost = "" if layer.cost_db is None else _db(layer.cost_db).removesuffix(" dB")
        own = _db(layer.own_sqnr_db).removesuffix(" dB")
        named = Text(layer.module), Text(layer.source), Text(f"{layer.op} {layer.node}")
        table.add_row(*named, _cell(layer, layer.sqnr_db), own, cost, _MARKS[layer.verdict])
    return table


@dataclass(frozen=True, slots=True)
class _Module:
    """What a module's layers show together: the error behind it, and the largest of its own."""

    name: str
    last: LayerError
    own: float | None
    verdict: str


def _modules(layers: Sequence[LayerError]) -> list[_Module]:
    found: dict[str, list[LayerError]] = {}
    for layer in layers:
        if layer.op != "input":
            found.setdefault(layer.module, []).append(layer)
    made = []
    for name, own in found.items():
        verdicts = {layer.verdict for layer in own}
        worst = min((layer.own_sqnr_db for layer in own if layer.own_sqnr_db is not None), default=None)
        verdict = next((v for v in ("bad", "inherited") if v in verdicts), "clean")
        made.append(_Module(name, own[-1], worst, verdict))
    return made


def _by_module(found: Located) -> RenderableType:
    modules = _modules(found.layers)
    # Where there are too many for a screen, those that change least are left out.
    worst = sorted(modules, key=lambda m: (m.verdict != "bad", m.own if m.own is not None else _CEILING_DB))[:_MODULES]
    shown = [module for module in modules if module in worst]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("module", "SQNR dB behind it", "its largest own error dB", ""):
        table.add_column(heading, justify="right" if "dB" in heading else "left")
    for module in shown:
        own = _db(module.own).removesuffix(" dB")
        table.add_row(Text(module.name or "-"), _cell(module.last, module.last.sqnr_db), own, _MARKS[module.verdict])
    left = len(modules) - len(shown)
    return Group(table, Text(f"and {left} modules with smaller errors: --json tells all")) if left else table


def growth_picture(found: Located, path: Path) -> None:
    """Draw the SQNR of each tensor along the graph, and what each layer loses alone; UsageError as `check_picture`."""
    check_picture(path)
    from matplotlib.figure import Figure

    layers = [layer for layer in found.layers if layer.op != "input"]
    figure = Figure(figsize=(12, 6), layout="constrained")
    axes = figure.subplots()
    along = [_height(layer.sqnr_db) for layer in layers]
    axes.plot(range(len(layers)), along, color="0.6", linewidth=0.8, zorder=1)
    for verdict, colour in _COLOURS.items():
        places = [index for index, layer in enumerate(layers) if layer.verdict == verdict]
        if places:
            heights = [along[index] for index in places]
            axes.scatter(places, heights, s=40 if verdict == "bad" else 8, color=colour, label=verdict, zorder=3)
    own = [(index, layer.own_sqnr_db) for index, layer in enumerate(layers) if layer.own_sqnr_db is not None]
    heights = [_height(value) for _, value in own]
    axes.scatter([index for index, _ in own], heights, s=6, marker="x", color="0.4", label="alone", zorder=2)
    if found.first in layers:
        at = layers.index(found.first)
        name = found.first.module or found.first.node
        colour = _COLOURS["bad"]
        axes.annotate(name, (at, along[at]), xytext=(8, -14), textcoords="offset points", color=colour, **_PLAIN)
    starts = _starts(layers)
    axes.set_xticks(list(starts), list(starts.values()), rotation=60, ha="right", fontsize="small", **_PLAIN)
    axes.set_ylabel("SQNR against the reference, dB: less is worse")
    title = f"{Path(found.candidate).name}, {_where(found)}; layers in the graph's order"
    axes.set_title(title, loc="left", **_PLAIN)
    axes.legend(loc="lower left", fontsize="small")
    with whole_file(path) as part:
        figure.savefig(part, format=path.suffix[1:])


def _height(value: float | None) -> float:
    return _CEILING_DB if value is None else min(max(value, -20.0), _CEILING_DB)


def _starts(layers: Sequence[LayerError]) -> dict[int, str]:
    """Return where each part of the model starts on the axis: the first two names of a module's path."""
    found: dict[int, str] = {}
    for index, layer in enumerate(layers):
        part = ".".join(layer.module.split(".")[:2])
        # Labels that are nearer than this lie on each other.
        free = not found or index - max(found) > len(layers) / 50
        if part and part not in found.values() and free:
            found[index] = part
    return found
