"""Which nodes of a model the kernels stand for that ONNX Runtime runs in their place.

ONNX Runtime saves the graph that it really runs, in the order in which it runs it. A kernel of it stands for the nodes
of the model between the tensors that it reads and those that it gives, most of which keep their names.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from mmtrt.bench.branches import node_name
from mmtrt.bench.layers import MATRIX_OPS

__all__ = ["origins_of"]

_CAST = "InsertedPrecisionFreeCast_"
"""What stands before the name of a value that is computed in FP32, for want of an FP16 kernel."""
_BLOCKED = "_nchwc"
"""What stands behind the name of a convolution's output, as its kernel's name, where the layout is a blocked one."""
_CARRY = {"Cast", "DequantizeLinear", "QuantizeLinear", "Identity", "Reshape", "Transpose"}
"""What a matrix product may take in from before it; all else that is fused with one comes behind it."""


def origins_of(model: onnx.ModelProto, kernels: Sequence[onnx.NodeProto]) -> list[list[str]]:
    """Return for each kernel the names of the nodes that it stands for, in the model's order.

    A kernel that ONNX Runtime put in, as one that changes a layout, stands for none; a node that it fused into each of
    the kernels behind it, as a transposition, is in all of them.
    """
    search = _Search(model, kernels)
    found = [search.nodes(kernel) for kernel in kernels]
    makers = {value: index for index, kernel in enumerate(kernels) for value in kernel.output}
    for index, kernel in enumerate(kernels):
        # It gives the result of all that is fused with a convolution its name, and does none of it.
        if kernel.op_type == "ReorderOutput" and kernel.input[0] in makers:
            found[makers[kernel.input[0]]] |= found[index]
            found[index] = set()
    owner = {name: index for index, names in enumerate(found) for name in names}
    # What is fused behind a convolution of a layout of its own is named nowhere: it goes with what it follows.
    for node in model.graph.node:
        name = node_name(node)
        if name not in owner:
            before = [owner[maker] for value in node.input if (maker := search.maker(value)) in owner]
            if before:
                owner[name] = max(before)
                found[owner[name]].add(name)
    order = {node_name(node): index for index, node in enumerate(model.graph.node)}
    return [sorted(names, key=order.__getitem__) for names in found]


class _Search:
    """Looks for nodes of a model by the names of values."""

    def __init__(self, model: onnx.ModelProto, kernels: Sequence[onnx.NodeProto]) -> None:
        self._nodes = {node_name(node): node for node in model.graph.node}
        self._makers = {value: node for node in model.graph.node for value in node.output}
        self._told = {value: self._own_name(kernel, value) for kernel in kernels for value in kernel.output}
        self._kept = set(self._told.values())

    def maker(self, value: str) -> str:
        """Return the node that makes a value, empty where none does."""
        return node_name(self._makers[value]) if value in self._makers else ""

    def nodes(self, kernel: onnx.NodeProto) -> set[str]:
        """Return the nodes between what a kernel reads and what it gives."""
        found = {kernel.name} & set(self._nodes)
        given = {told for value in kernel.output if (told := self._told[value])}
        if given & {self._told.get(value, value) for value in kernel.input}:
            return found
        stack = [(value, False) for value in given]
        while stack:
            value, before = stack.pop()
            node = self._makers[value]
            if node_name(node) in found and value not in given:
                continue
            if before and node.op_type not in _CARRY:
                continue
            found.add(node_name(node))
            before |= node.op_type in MATRIX_OPS
            stack += [(name, before) for name in node.input if name in self._makers and name not in self._kept]
        return found

    def _own_name(self, kernel: onnx.NodeProto, value: str) -> str:
        """Return the model's own name for what a kernel gives, empty where it has none."""
        names = (value, value.removeprefix(_CAST), kernel.name.removesuffix(_BLOCKED).removeprefix(_CAST))
        return next((name for name in names if name in self._makers), "")
