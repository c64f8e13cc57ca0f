"""Which nodes compute where to look: what they round, others read at the wrong place.

1. A place is the grid of a GridSample, or a float that becomes an integer: an index, a cell.
2. It is traced back over arithmetic and changes of shape, up to the product that it comes from and no further: a
   camera's matrix times points, a layer that predicts offsets.
"""

from __future__ import annotations

import onnx_ir as ir

from mmtrt.precision.graph import is_float

__all__ = ["place_nodes"]

_CARRIES = {
    "Abs", "Add", "Cast", "Ceil", "Clip", "Concat", "Div", "Expand", "Flatten", "Floor", "Gather", "Identity", "Max",
    "Min", "Mod", "Mul", "Neg", "Reciprocal", "Reshape", "Round", "Sigmoid", "Sign", "Slice", "Split", "Squeeze", "Sub",
    "Tanh", "Tile", "Transpose", "Unsqueeze", "Where",
}  # fmt: skip
_GRID = 1
_INTEGERS = {ir.DataType.INT32, ir.DataType.INT64}


def place_nodes(graph: ir.Graph) -> frozenset[ir.Node]:
    """Return the nodes whose floats become places, by the rules above, and those that make integers of them."""
    found: set[ir.Node] = set()
    for node in reversed(list(graph)):
        uses = [use for value in node.outputs if is_float(value) for use in value.uses()]
        if _cuts(node) or any(
            _looks(user, index) or (user in found and user.op_type in _CARRIES) for user, index in uses
        ):
            found.add(node)
    return frozenset(found)


def _cuts(node: ir.Node) -> bool:
    return node.op_type == "Cast" and is_float(node.inputs[0]) and node.outputs[0].dtype in _INTEGERS


def _looks(user: ir.Node, index: int) -> bool:
    """Tell whether a node takes the float at this input for a place."""
    return user.op_type == "GridSample" and index == _GRID
