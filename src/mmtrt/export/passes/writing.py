"""Nodes that a pass puts in place of another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

__all__ = ["Writer"]


class Writer:
    """Writes nodes before the one that they replace; they tell the same module and line."""

    def __init__(self, graph: ir.Graph, replaced: ir.Node) -> None:
        self._graph = graph
        self._replaced = replaced
        self._count = 0

    def node(self, kind: str, inputs: Sequence[ir.Value], *attributes: ir.Attr) -> ir.Value:
        """Write a node with one output of the type of its first input, and return the output."""
        self._count += 1
        name = f"{self._replaced.outputs[0].name}.{self._count}"
        made = ir.Value(name=name, type=inputs[0].type)
        node = ir.Node("", kind, inputs, attributes, outputs=[made], name=f"{self._replaced.name}.{self._count}")
        node.metadata_props.update(self._replaced.metadata_props)
        self._graph.insert_before(self._replaced, node)
        return made

    def shape(self, value: ir.Value, start: int, end: int | None = None) -> ir.Value:
        """Write the sizes of the axes from `start` to before `end`, `(n)` of int64."""
        ends = [] if end is None else [ir.AttrInt64("end", end)]
        made = self.node("Shape", [value], ir.AttrInt64("start", start), *ends)
        made.type = ir.TensorType(ir.DataType.INT64)
        return made

    def integers(self, *numbers: int) -> ir.Value:
        """Return a constant `(n)` of int64."""
        self._count += 1
        value = ir.Value(
            name=f"{self._replaced.outputs[0].name}.{self._count}",
            type=ir.TensorType(ir.DataType.INT64),
            shape=ir.Shape([len(numbers)]),
        )
        value.const_value = ir.tensor(np.asarray(numbers, dtype=np.int64), name=value.name)
        self._graph.register_initializer(value)
        return value

    def finish(self, result: ir.Value) -> None:
        """Give what was written the replaced node's output, and remove the node."""
        old = self._replaced.outputs[0]
        name = old.name
        result.type, result.shape = old.type, old.shape
        ir.convenience.replace_all_uses_with(old, result, replace_graph_outputs=True)
        self._graph.remove(self._replaced, safe=True)
        result.name = name
