"""Where a build in fewer bits is not faster than another of the same model: which layers, and why.

Kernels of two builds are compared in groups: those that share nodes of the model, however each build fuses them. It
takes layer times, or only the kernels as the builder told of them: then it says what is likely, and gives no times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mmtrt.bench.layers import MATRIX_OPS, LayerTime, Nodes, placed

__all__ = ["Builds", "Group", "compare_builds", "engine_layers"]

_SMALL_MS = 0.01
"""Below this a kernel on a GPU is mostly its launch and the reading of its weights."""
_LEAST = 0.005
"""Of the whole: what loses less and multiplies nothing is not worth a line."""
_Q = (".q", ".quantized", "_QuantizeLinear", "_quantize")
_DQ = (".dq", ".dequantized", "_DequantizeLinear", "_dequantize")
_CODES = {"QuantizeLinear", "DequantizeLinear"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The same part of the model in two builds. Times are None where nothing ran.

    `module` is the PyTorch module of most of its kernels, `nodes` its matrix products and convolutions; `why` is empty
    where the second build is faster, or where nothing speaks against its being so.
    """

    module: str
    branch: str
    nodes: tuple[str, ...]
    precision_before: str
    precision_after: str
    kernels_before: tuple[str, ...]
    kernels_after: tuple[str, ...]
    before_ms: float | None
    after_ms: float | None
    why: tuple[str, ...]

    @property
    def lost_ms(self) -> float:
        """How much longer it takes in the second build."""
        return 0.0 if self.before_ms is None or self.after_ms is None else self.after_ms - self.before_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Builds:
    """Two builds compared: the groups that are not faster, what loses most first, and how many there are in all.

    `ratio` is the kernels' sum of the second build over that of the first, None where nothing ran.
    """

    before: str
    after: str
    ratio: float | None
    slower: tuple[Group, ...]
    groups: int
    kernels_before: int
    kernels_after: int

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Builds:
        """Read what `to_json` gave."""
        listed = ("nodes", "kernels_before", "kernels_after", "why")
        groups = tuple(Group(**{**row, **{name: tuple(row[name]) for name in listed}}) for row in data["slower"])
        return cls(**{**data, "slower": groups})


def engine_layers(rows: Sequence[Mapping[str, Any]], nodes: Nodes) -> list[LayerTime]:
    """Return the kernels of an engine's table, `<engine>.layers.json`, without times."""
    return [
        LayerTime(
            name=str(row["name"]),
            kind=str(row["kind"]),
            nodes=tuple(row["nodes"]),
            precision=str(row["precision"]),
            ms=0.0,
            share=0.0,
            **placed(row["nodes"], nodes),
        )
        for row in rows
        if row["role"] != "shape"
    ]


def compare_builds(
    before: Sequence[LayerTime],
    after: Sequence[LayerTime],
    nodes: Nodes,
    *,
    names: tuple[str, str] = ("", ""),
    timed: bool = True,
) -> Builds:
    """Compare two builds of one model; `nodes` is what is known of both builds' ONNX, in one."""
    total = sum(layer.ms for layer in before)
    groups = [_group(first, second, nodes, timed=timed) for first, second in _together(before, after, nodes)]
    slower = [group for group in groups if group.why and (group.nodes or group.lost_ms >= _LEAST * total)]
    return Builds(
        before=names[0],
        after=names[1],
        ratio=sum(layer.ms for layer in after) / total if timed and total > 0 else None,
        slower=tuple(sorted(slower, key=lambda group: (-group.lost_ms, -len(group.nodes)))),
        groups=len(groups),
        kernels_before=len(before),
        kernels_after=len(after),
    )


# ------------------------------------------------------------------------------------------- grouping


def _together(
    before: Sequence[LayerTime], after: Sequence[LayerTime], nodes: Nodes
) -> list[tuple[list[LayerTime], list[LayerTime]]]:
    """Group kernels that share a node which both builds have; one that has none goes with the one that it feeds."""
    common = {name for layer in before for name in layer.nodes} & {name for layer in after for name in layer.nodes}
    common -= {name for name in common if nodes.ops.get(name) in _CODES}
    roots: dict[str, str] = {}

    def root(name: str) -> str:
        while roots.setdefault(name, name) != name:
            name = roots[name]
        return name

    for layer in (*before, *after):
        shared = [name for name in layer.nodes if name in common]
        for name in shared[1:]:
            roots[root(name)] = root(shared[0])
    groups: dict[str, tuple[list[LayerTime], list[LayerTime]]] = {}
    for side, layers in enumerate((before, after)):
        for index, layer in enumerate(layers):
            anchor = _anchor(index, layers, common)
            # What only moves is made anew in each build: all of a module counts together.
            key = root(anchor) if anchor else f"moves of {layer.module or layer.branch}"
            groups.setdefault(key, ([], []))[side].append(layer)
    return list(groups.values())


def _anchor(index: int, layers: Sequence[LayerTime], common: set[str]) -> str:
    """Return a node that tells a kernel's group; of one that only makes codes, it is of the kernel that reads them."""
    mine = layers[index]
    own = next((name for name in mine.nodes if name in common), "")
    if own or not mine.nodes:
        return own
    stems = {_stem(name) for name in mine.nodes}
    readers = [layer for layer in layers[index + 1 :] if stems & {_stem(name) for name in layer.nodes}]
    behind = [*readers, *layers[index + 1 : index + 2]]
    return next((name for layer in behind for name in layer.nodes if name in common), "")


def _stem(name: str) -> str:
    for suffix in (*_Q, *_DQ):
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


# -------------------------------------------------------------------------------------------- reasons


def _group(before: list[LayerTime], after: list[LayerTime], nodes: Nodes, *, timed: bool) -> Group:
    known = dict.fromkeys(name for layer in (*before, *after) for name in layer.nodes)
    heavy = tuple(name for name in known if nodes.ops.get(name) in MATRIX_OPS)
    modules = Counter(layer.module for layer in (*before, *after) if layer.module)
    branches = Counter(layer.branch for layer in (*before, *after))
    first, second = sum(layer.ms for layer in before), sum(layer.ms for layer in after)
    faster = timed and second < first
    return Group(
        module=next((name for name, _ in modules.most_common(1)), ""),
        branch=next((name for name, _ in branches.most_common(1)), ""),
        nodes=heavy,
        precision_before=_precision(before, nodes),
        precision_after=_precision(after, nodes),
        kernels_before=tuple(layer.name for layer in before),
        kernels_after=tuple(layer.name for layer in after),
        before_ms=first if timed else None,
        after_ms=second if timed else None,
        why=() if faster else tuple(_reasons(before, after, heavy, nodes, timed=timed)),
    )


def _precision(layers: Sequence[LayerTime], nodes: Nodes) -> str:
    """Return what the matrix products and convolutions of a group compute in, each named once."""
    # A kernel of the same node that comes behind the product only scales what that gave.
    products: dict[str, str] = {}
    for layer in layers:
        for name in layer.nodes:
            if nodes.ops.get(name) in MATRIX_OPS:
                products.setdefault(name, layer.precision)
    return ", ".join(dict.fromkeys(products.values()))


def _reasons(
    before: Sequence[LayerTime], after: Sequence[LayerTime], heavy: Sequence[str], nodes: Nodes, *, timed: bool
) -> list[str]:
    found = []
    precision = _precision(after, nodes)
    if heavy and precision == _precision(before, nodes):
        if not timed and len(after) <= len(before):
            return []
        found.append(f"still computed in {precision}")
    if _attends(before, nodes) and not _attends(after, nodes):
        found.append("attention is no longer one kernel")
    if len(after) > len(before):
        was = "was none" if not before else "was 1" if len(before) == 1 else f"were {len(before)}"
        many = f"{len(after)} kernel{'s' if len(after) > 1 else ''}"
        found.append(f"{many} where there {was}{_added(before, after, nodes)}")
    if found or not timed:
        return found
    if not heavy:
        return ["the same work, without any matrix product"]
    small = sum(layer.ms for layer in before) < _SMALL_MS
    return [
        "too small to gain: its launch and its weights take the time"
        if small
        else f"its {precision} kernel is no faster"
    ]


def _attends(layers: Sequence[LayerTime], nodes: Nodes) -> bool:
    """Tell whether one kernel holds a softmax with the products before and behind it."""
    for layer in layers:
        ops = Counter(nodes.ops.get(name, "") for name in layer.nodes)
        if ops["Softmax"] and ops["MatMul"] > 1:
            return True
    return False


def _added(before: Sequence[LayerTime], after: Sequence[LayerTime], nodes: Nodes) -> str:
    """Say what the further kernels are for."""
    codes = [layer for layer in after if layer.nodes and all(_is_code(name, nodes) for name in layer.nodes)]
    moves = [layer for layer in after if not layer.nodes]
    was = len([layer for layer in before if not layer.nodes])
    told = []
    if codes:
        told.append(f"{len(codes)} to quantise or dequantise")
    if len(moves) > was:
        told.append(f"{len(moves) - was} to change layout or type")
    rest = len(after) - len(before) - len(codes) - max(0, len(moves) - was)
    if rest > 0:
        told.append(f"{rest} for what was fused before")
    return f": {', '.join(told)}" if told else ""


def _is_code(name: str, nodes: Nodes) -> bool:
    return nodes.ops.get(name) in {*_CODES, "Cast"}
