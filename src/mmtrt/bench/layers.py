"""Where the time of an inference goes, layer by layer and branch by branch.

A layer is a kernel: what an engine or a runtime runs at once, made of one ONNX node or of many.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mmtrt.tensors import Array, branch_of

__all__ = [
    "MATRIX_OPS",
    "BranchTime",
    "LayerTime",
    "LayerTimes",
    "Nodes",
    "engine_layer_times",
    "middle_mean",
    "placed",
    "summed",
]

MATRIX_OPS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
"""What takes the time of a kernel that it is fused in."""

_UNKNOWN = "unknown"
_CONSTANT = "constant"


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """What is known of a model's ONNX nodes, by name: the branch, the PyTorch module, the operator."""

    branches: Mapping[str, str]
    modules: Mapping[str, str]
    ops: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTime:
    """One kernel: `ms` a run, and `share` of all kernels' time.

    `kind` is the builder's or the runtime's word for it, `nodes` the ONNX nodes that went into it, `module` the PyTorch
    module of most of them. A kernel of several branches has all their names in `branch`, and counts for each by
    `parts`, which sum to 1.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    module: str
    branch: str
    precision: str
    ms: float
    share: float
    parts: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchTime:
    """A branch's part of the time: `ms` a run, and `share` of all kernels' time."""

    ms: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTimes:
    """All kernels in the order in which they run, and the branches, the dearest first.

    `latency_ms` is what a run takes that nobody profiles, measured in the same minutes; `attributed` the kernels' sum
    over it: what is missing to 1 goes by between kernels, what is above 1 the profiler has added. None: not measured.
    `mixed` is the share of kernels that several branches are fused in, `unknown` of those of no known node.
    """

    file: str
    runs: str
    source: str
    layers: tuple[LayerTime, ...]
    branches: Mapping[str, BranchTime]
    sum_ms: float
    latency_ms: float | None
    attributed: float | None
    mixed: float
    unknown: float
    profiled: int
    notes: tuple[str, ...] = ()
    slower: Mapping[str, Any] | None = None
    """Where it is not faster than the file that it was measured against, and why: the JSON of `mmtrt.bench.slower`."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LayerTimes:
        """Read what `to_json` gave."""
        layers = tuple(LayerTime(**{**row, "nodes": tuple(row["nodes"])}) for row in data["layers"])
        branches = {name: BranchTime(**row) for name, row in data["branches"].items()}
        return cls(**{**data, "layers": layers, "branches": branches, "notes": tuple(data["notes"])})


def placed(names: Sequence[str], nodes: Nodes) -> dict[str, Any]:
    """Return `module`, `branch` and `parts` of a kernel that is made of these nodes, as `LayerTime` has them.

    Its matrix products and convolutions count alike, and nothing beside them; where it has none, each node counts. What
    makes constants ready counts nowhere.
    """
    known = [name for name in names if nodes.branches.get(name, _CONSTANT) != _CONSTANT]
    counted = [name for name in known if nodes.ops.get(name) in MATRIX_OPS] or known
    branches = Counter(nodes.branches[name] for name in counted)
    modules = Counter(nodes.modules[name] for name in counted or names if name in nodes.modules)
    parts = {name: count / len(counted) for name, count in branches.most_common()}
    return {
        "module": next((name for name, _ in modules.most_common(1)), ""),
        "branch": " + ".join(parts) or _UNKNOWN,
        "parts": parts,
    }


def summed(
    *,
    file: str,
    runs: str,
    source: str,
    layers: Sequence[LayerTime],
    latency_ms: float | None,
    profiled: int,
    notes: Sequence[str] = (),
) -> LayerTimes:
    """Sum kernels to branches, and set the kernels' shares."""
    total = sum(layer.ms for layer in layers)
    times: defaultdict[str, float] = defaultdict(float)
    for layer in layers:
        for name, part in (layer.parts or {_UNKNOWN: 1.0}).items():
            times[name] += part * layer.ms
    dearest = sorted(times.items(), key=lambda item: -item[1])
    scale = 1 / total if total > 0 else 0.0
    return LayerTimes(
        file=file,
        runs=runs,
        source=source,
        layers=tuple(_with_share(layer, layer.ms * scale) for layer in layers),
        branches={name: BranchTime(ms=ms, share=ms * scale) for name, ms in dearest},
        sum_ms=total,
        latency_ms=latency_ms,
        attributed=total / latency_ms if latency_ms else None,
        mixed=sum(layer.ms for layer in layers if len(layer.parts) > 1) * scale,
        unknown=times.get(_UNKNOWN, 0.0) * scale,
        profiled=profiled,
        notes=tuple(notes),
    )


def _with_share(layer: LayerTime, share: float) -> LayerTime:
    return LayerTime(**{**{name: getattr(layer, name) for name in LayerTime.__slots__}, "share": share})


def engine_layer_times(
    *,
    file: str,
    runs: str,
    rows: Sequence[Mapping[str, Any]],
    timed: Sequence[Sequence[tuple[str, float]]],
    nodes: Nodes | None = None,
    latency_ms: float | None = None,
) -> LayerTimes:
    """Put the times that TensorRT's profiler told of an engine's layers to the nodes that went into them.

    `rows` are those of `<engine>.layers.json`, `timed` one list of (layer, ms) a run; of each layer the mean of the
    middle half counts. Without what is known of the ONNX's nodes, a branch is the outermost module.
    """
    if not timed:
        raise ValueError("no run was profiled")
    table = {str(row["name"]): row for row in rows}
    order = list(dict.fromkeys(name for run in timed for name, _ in run))
    means = _means(order, timed)
    makers = {tensor["name"]: row for row in rows for tensor in row["outputs"]}
    layers = []
    for name in order:
        row = table.get(name)
        layers.append(
            LayerTime(
                name=name,
                kind=str(row["kind"]) if row else "",
                nodes=tuple(row["nodes"]) if row else (),
                precision=str(row["precision"]) if row else "",
                ms=means[name],
                share=0.0,
                **_placed(row, nodes, makers),
            )
        )
    lost = [name for name in order if name not in table]
    notes = [f"{len(lost)} layers are not in the engine's table: {', '.join(lost[:3])}"] if lost else []
    return summed(
        file=file,
        runs=runs,
        source="TensorRT's profiler",
        layers=layers,
        latency_ms=latency_ms,
        profiled=len(timed),
        notes=notes,
    )


def middle_mean(times: Array) -> Array:
    """Return the mean of the middle half along the first axis: what disturbed a run is no layer's, nor is luck."""
    ordered = np.sort(times, axis=0)
    cut = len(ordered) // 4
    return np.asarray(ordered[cut : len(ordered) - cut].mean(axis=0))


def _means(order: Sequence[str], timed: Sequence[Sequence[tuple[str, float]]]) -> dict[str, float]:
    table = np.zeros((len(timed), len(order)))
    places = {name: index for index, name in enumerate(order)}
    for run, times in enumerate(timed):
        for name, ms in times:
            table[run, places[name]] += ms
    return dict(zip(order, middle_mean(table).tolist(), strict=True))


def _placed(
    row: Mapping[str, Any] | None, nodes: Nodes | None, makers: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Place an engine's layer; one of no known node, as a reformat, belongs where what it moves was made."""
    found = _place(row, nodes)
    for _ in makers:
        if found["parts"] or row is None or not row["inputs"]:
            break
        row = makers.get(row["inputs"][0]["name"])
        found = _place(row, nodes)
    return found


def _place(row: Mapping[str, Any] | None, nodes: Nodes | None) -> dict[str, Any]:
    if row is None or nodes is not None:
        return placed(row["nodes"] if row else (), nodes or Nodes(branches={}, modules={}, ops={}))
    # Without the ONNX, a layer's modules are all that is known, and count alike.
    modules = [str(module) for module in row["modules"]]
    return placed(modules, Nodes(branches={name: branch_of(name) for name in modules}, modules={}, ops={})) | {
        "module": next(iter(modules), "")
    }
