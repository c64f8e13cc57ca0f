"""ONNX to ONNX after tracing: what TensorRT's parser or builder refuses, said in operators that it takes.

Each pass is a function in a file of its own, `apply(graph, limits)`, which changes a graph in place and returns how
many nodes it replaced; its docstring numbers its rules. `limits` are the largest sizes of the dynamic axes, by the
names that the graph has for them. A pass says the same for all inputs within them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from mmtrt.export.passes import einsum, pooling

__all__ = ["ORDER", "run_passes"]

Pass = Callable[[ir.Graph, Mapping[str, int]], int]
ORDER: Mapping[str, Pass] = {"einsum": einsum.apply, "pooling": pooling.apply}


def run_passes(model: ir.Model, limits: Mapping[str, int], tell: Callable[[str], None]) -> None:
    """Apply all passes in this order; `tell` hears the names of those that replaced anything."""
    for name, apply in ORDER.items():
        if apply(model.graph, limits):
            tell(name)
