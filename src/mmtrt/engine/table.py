"""An engine's final layers as one table: each kernel with the nodes and modules it came from, its types, its work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmtrt.engine.estimate import owners, tensor_bytes
from mmtrt.engine.layers import EngineLayer, LayerTensor

__all__ = ["Graph", "int8_share", "layer_table"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """What is known of an engine's ONNX: each node's module, and its multiply-accumulates at the usual sizes."""

    modules: Mapping[str, str] = field(default_factory=dict)
    macs: Mapping[str, int] = field(default_factory=dict)


def layer_table(layers: Sequence[EngineLayer], graph: Graph) -> list[dict[str, Any]]:
    """Return a row a layer: what the builder tells of it, with `modules`, `macs` and `bytes_moved`.

    `bytes_moved` is None for a layer with an open axis; `constant_bytes` counts its weights and scales alone.
    """
    work = owners(layers, graph.macs)
    rows = []
    for index, layer in enumerate(layers):
        mine = [name for name, owner in work.items() if owner == index]
        modules = dict.fromkeys(graph.modules[name] for name in layer.nodes if name in graph.modules)
        rows.append(
            {
                **layer.to_json(),
                "modules": list(modules),
                "macs": sum(graph.macs[name] for name in mine),
                "bytes_moved": _moved((*layer.inputs, *layer.outputs, *layer.constants)),
                "constant_bytes": _moved(layer.constants),
            }
        )
    return rows


def int8_share(layers: Sequence[EngineLayer], graph: Graph) -> float | None:
    """Return the share of the multiply-accumulates that INT8 kernels do; None where none is known."""
    work = owners(layers, graph.macs)
    total = sum(graph.macs[name] for name in work)
    inside = sum(graph.macs[name] for name, index in work.items() if layers[index].precision == "int8")
    return inside / total if total else None


def _moved(tensors: Sequence[LayerTensor]) -> int | None:
    if any(dim < 0 for tensor in tensors for dim in tensor.dims):
        return None
    return sum(map(tensor_bytes, tensors))
