"""FP32 to FP16 where the ranges allow it; inputs and outputs keep their types.

1. A node stays FP32 where one of its values may exceed what FP16 holds, by ranges seen or bounded.
2. A node stays FP32 where FP16 loses what it computes: powers, square roots, exponentials and sums of squares
   (decomposed norms, L2 norms, logit scales), where to look (`places.py`), and whatever FP16 has no kernel for.
3. Casts stand only where precision changes, one per value and direction.
4. Q/DQ keep FP32 scales, FP32 in and FP32 out: the casts around them fold into the kernels and lose nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir

from mmtrt.precision.bounds import Bounds
from mmtrt.precision.graph import constant, is_float, module_of
from mmtrt.precision.masks import LARGEST, Masks
from mmtrt.precision.places import place_nodes
from mmtrt.precision.plan import Kept
from mmtrt.tensors import Array

__all__ = ["HEADROOM", "keep_fp32", "to_fp16"]

HEADROOM = 2.0
"""New inputs go beyond the calibration set's ranges; a value is FP16 if twice its range fits."""

_EXACT_INTEGERS = 2048.0
_Q_OPS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
_SENSITIVE = {
    "Pow", "Sqrt", "Reciprocal", "Exp", "Log", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSum",
    "ReduceLogSumExp", "ReduceProd", "LpNormalization", "MeanVarianceNormalization", "InstanceNormalization",
    "GroupNormalization", "BatchNormalization", "GridSample", "AffineGrid", "CumSum", "Range", "Einsum", "Det",
}  # fmt: skip
_NO_HALF = {
    "Loop", "If", "Scan", "SequenceMap", "NonMaxSuppression", "RandomNormal", "RandomUniform", "RandomNormalLike",
    "RandomUniformLike", "Multinomial", "LSTM", "GRU", "RNN", "STFT", "DFT", "MelWeightMatrix", "EyeLike", "RoiAlign",
    "MaxRoiPool", "Bernoulli",
}  # fmt: skip
_FP32_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}


def keep_fp32(
    model: ir.Model,
    seen: Mapping[str, float],
    *,
    known: Bounds,
    masks: Masks | None = None,
    keep: Collection[str] = (),
) -> dict[ir.Node, str]:
    """Return the nodes that stay FP32 by rules 1 and 2, and why; judged on the float graph, before Q/DQ.

    `seen` maps value names to the largest |value| that calibration showed, `known` bounds the others; `keep` names
    nodes or modules that stay FP32 whatever their ranges. A mask is a constant that new data does not move, so it
    needs no headroom.
    """
    masked = masks.values if masks else frozenset()
    limits = {name: bound / HEADROOM if name in masked else bound for name, bound in known.largest(seen).items()}
    places = place_nodes(model.graph)
    reasons = {
        node: _why_fp32(node, limits, keep) or ("it computes where to look" if node in places else None)
        for node in model.graph
    }
    return {node: reason for node, reason in reasons.items() if reason is not None}


def to_fp16(model: ir.Model, stays: Mapping[ir.Node, str], *, feeding: Collection[ir.Node] = ()) -> list[Kept]:
    """Turn the graph into FP16 in place, but for the nodes that `stays` names; return those with their reasons.

    `feeding` are nodes of the quantization itself: they are part of one kernel with what they feed.
    """
    reasons: dict[ir.Node, str | None] = {node: stays.get(node) for node in model.graph}
    for node in model.graph:
        if node.op_type in _Q_OPS or node in feeding:
            reasons[node] = f"{node.op_type} takes FP32"
    casts = _Casts(model, reasons)
    for node in list(model.graph):
        if reasons[node] is None:
            casts.lower(node)
        else:
            casts.raise_(node)
    casts.restore_outputs()
    return [
        Kept(node=node.name or "?", module=module_of(node), precision="fp32", why=reason)
        for node, reason in stays.items()
        if node.op_type not in _Q_OPS and _touches_float(node)
    ]


def _touches_float(node: ir.Node) -> bool:
    return any(is_float(value) for value in (*node.inputs, *node.outputs))


def _why_fp32(node: ir.Node, limits: Mapping[str, float], keep: Collection[str]) -> str | None:
    if not _touches_float(node):
        return "it computes no floats"
    if node.op_type in _Q_OPS or node.op_type in _NO_HALF or node.domain not in {"", "ai.onnx"}:
        return f"{node.op_type} takes FP32"
    if node.op_type in _SENSITIVE:
        return f"{node.op_type} loses too much in FP16"
    module = module_of(node)
    if node.name in keep or any(module == k or module.startswith(f"{k}.") for k in keep):
        return "asked to be kept"
    return _beyond_range(node, limits)


def _beyond_range(node: ir.Node, limits: Mapping[str, float]) -> str | None:
    for value in (*node.inputs, *node.outputs):
        if value is not None and is_float(value):
            bound = limits.get(value.name or "", math.inf)
            if not bound * HEADROOM <= LARGEST:
                return f"{value.name!r} reaches {bound:.3g}"
    source = node.inputs[0] if node.inputs else None
    if node.op_type != "Cast" or source is None or is_float(source) or source.dtype == ir.DataType.BOOL:
        return None
    exact = limits.get(node.outputs[0].name or "", math.inf) <= _EXACT_INTEGERS
    return None if exact else "integers beyond 2048 are not exact in FP16"


class _Casts:
    """Puts casts where precision changes, one per value and direction."""

    def __init__(self, model: ir.Model, reasons: Mapping[ir.Node, str | None]) -> None:
        self._graph = model.graph
        self._reasons = reasons
        self._made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def lower(self, node: ir.Node) -> None:
        """Make a node FP16: its float inputs and outputs."""
        exact = _FP32_INPUTS.get(node.op_type, ())
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype == ir.DataType.FLOAT and index not in exact:
                node.replace_input_with(index, self._as(value, ir.DataType.FLOAT16, node))
        for name in ("to", "dtype"):
            found = node.attributes.get(name)
            if found is not None and found.value == ir.DataType.FLOAT:
                node.attributes[name] = ir.AttrInt64(name, ir.DataType.FLOAT16)
        if node.op_type == "ConstantOfShape" and "value" not in node.attributes:
            # Without a value it makes FP32 zeros.
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(np.zeros(1, dtype=np.float32)))
        filled = node.attributes.get("value")
        if filled is not None and filled.as_tensor().dtype == ir.DataType.FLOAT:
            half = filled.as_tensor().numpy().astype(np.float16)
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(half))
        for value in node.outputs:
            if value.dtype == ir.DataType.FLOAT:
                value.type = ir.TensorType(ir.DataType.FLOAT16)

    def raise_(self, node: ir.Node) -> None:
        """Give a node that stays FP32 its inputs in FP32, those that its subgraphs read from outside too."""
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype == ir.DataType.FLOAT16 and self._lowered(value):
                node.replace_input_with(index, self._as(value, ir.DataType.FLOAT, node))
        for inner in _inner_nodes(node):
            for index, value in enumerate(inner.inputs):
                if value is not None and value.dtype == ir.DataType.FLOAT16 and self._lowered(value):
                    inner.replace_input_with(index, self._as(value, ir.DataType.FLOAT, node))

    def _lowered(self, value: ir.Value) -> bool:
        producer = value.producer()
        return producer is not None and producer in self._reasons and self._reasons[producer] is None

    def _as(self, value: ir.Value, dtype: ir.DataType, user: ir.Node) -> ir.Value:
        key = (value, dtype)
        if key not in self._made:
            array = constant(value) if value.producer() is None and not value.is_graph_input() else None
            self._made[key] = (
                self._constant(value, array, dtype) if array is not None else self._cast(value, dtype, user)
            )
        return self._made[key]

    def _constant(self, value: ir.Value, array: Array, dtype: ir.DataType) -> ir.Value:
        suffix = "fp16" if dtype == ir.DataType.FLOAT16 else "fp32"
        made = ir.Value(name=f"{value.name}.{suffix}", type=ir.TensorType(dtype), shape=value.shape)
        made.const_value = ir.tensor(array.astype(dtype.numpy()), name=made.name)
        self._graph.register_initializer(made)
        return made

    def _cast(self, value: ir.Value, dtype: ir.DataType, user: ir.Node) -> ir.Value:
        suffix = "fp16" if dtype == ir.DataType.FLOAT16 else "fp32"
        made = ir.Value(name=f"{value.name}.{suffix}", type=ir.TensorType(dtype), shape=value.shape)
        node = ir.Node(
            "", "Cast", [value], [ir.AttrInt64("to", dtype)], outputs=[made], name=f"{value.name}.to_{suffix}"
        )
        producer = value.producer()
        owner = producer if producer is not None else user
        if "mmtrt.module" in owner.metadata_props:
            node.metadata_props["mmtrt.module"] = owner.metadata_props["mmtrt.module"]
        if producer is not None:
            self._graph.insert_after(producer, node)
        else:
            self._graph.insert_before(self._graph[0], node)
        return made

    def restore_outputs(self) -> None:
        """Give the graph's outputs their FP32 back, under their names; drop weights that nobody reads."""
        for index, value in enumerate(self._graph.outputs):
            if value.dtype != ir.DataType.FLOAT16 or not self._lowered(value):
                continue
            name = value.name or ""
            value.name = f"{name}.fp16"
            restored = self._cast(value, ir.DataType.FLOAT, value.producer())
            restored.name = name
            self._graph.outputs[index] = restored
        unused = [n for n, v in self._graph.initializers.items() if not v.uses() and not v.is_graph_output()]
        for name in unused:
            del self._graph.initializers[name]


def _inner_nodes(node: ir.Node) -> list[ir.Node]:
    graphs = [a.value for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
    return [inner for graph in graphs for inner in ir.traversal.RecursiveGraphIterator(graph)]
