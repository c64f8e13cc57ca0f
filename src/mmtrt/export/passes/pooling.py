"""A pooling window that covers the whole map is a global one.

TensorRT's parser refuses windows beyond a size, which modules give who mean all of a map, `AvgPool2d(2560)` say.

1. AveragePool and MaxPool without padding and dilation, whose window is at least as large as the map on each axis, or
   as the largest that a dynamic axis may be, become GlobalAveragePool and GlobalMaxPool: there is one window, it is cut
   to the map, and what an average divides by is the number of places that it really covers.
2. A window that is larger than the map needs `ceil_mode`: without it there is no window at all, and no model has that.
   One that is as large as a dynamic axis at its largest only may be smaller at other sizes, and says the same there
   under `ceil_mode` alone.
3. MaxPool that tells places too is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from mmtrt.export.passes.writing import Writer

__all__ = ["apply"]

_GLOBAL = {"AveragePool": "GlobalAveragePool", "MaxPool": "GlobalMaxPool"}


def apply(graph: ir.Graph, limits: Mapping[str, int]) -> int:
    """Apply the rules above in place; return the number of nodes that were replaced."""
    found = [node for node in graph if node.op_type in _GLOBAL and node.domain == "" and _covers(node, limits)]
    for node in found:
        write = Writer(graph, node)
        write.finish(write.node(_GLOBAL[node.op_type], [node.inputs[0]]))
    return len(found)


def _covers(node: ir.Node, limits: Mapping[str, int]) -> bool:
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if shape is None or len(node.outputs) != 1:
        return False
    window, axes = _numbers(node, "kernel_shape"), list(shape)[2:]
    padded = any(_numbers(node, "pads")) or _text(node, "auto_pad") not in {"", "NOTSET", "VALID"}
    if len(window) != len(axes) or padded or any(step != 1 for step in _numbers(node, "dilations")):
        return False
    ceil = node.attributes.get_int("ceil_mode", 0) == 1
    return all(_covered(size, axis, limits, ceil=ceil) for size, axis in zip(window, axes, strict=True))


def _covered(window: int, axis: int | ir.SymbolicDim, limits: Mapping[str, int], *, ceil: bool) -> bool:
    if isinstance(axis, int):
        return window == axis or (ceil and window > axis)  # rule 2
    return ceil and axis.value in limits and window >= limits[str(axis.value)]


def _numbers(node: ir.Node, name: str) -> Sequence[int]:
    return node.attributes.get_ints(name, ()) or ()


def _text(node: ir.Node, name: str) -> str:
    return node.attributes.get_string(name, "") or ""
