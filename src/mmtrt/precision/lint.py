"""Q/DQ that a model brings along: kept as it is where TensorRT takes it, refused by name where it doesn't.

1. UINT8 parses with only a warning and turns into INT8: refused.
2. A zero point other than 0 is refused by the parser without the node's name: refused here with it.
3. Codes are INT8 (or FP8 / INT4, which are left to TensorRT).
4. An INT32 bias behind DequantizeLinear fails in the parser: refused with the node's name.
5. A weight's axis is its output channel's: another one builds, and bloats the plan.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mmtrt.errors import ModelError
from mmtrt.precision.graph import MacNode, attribute, constant

__all__ = ["has_qdq", "lint_qdq"]

_Q_OPS = {"QuantizeLinear", "DequantizeLinear"}
_FIX = "Quantize it symmetrically to INT8 with zero point 0, or give mmtrt the float model."


def has_qdq(model: ir.Model) -> bool:
    """Tell whether the model is quantised already."""
    return any(node.op_type in _Q_OPS for node in model.graph)


def lint_qdq(model: ir.Model, macs: list[MacNode]) -> list[str]:
    """Raise ModelError at the first Q/DQ that TensorRT can't take (rules 1 to 4); return notes on rule 5."""
    for node in model.graph:
        if node.op_type in _Q_OPS:
            _check(node)
        if node.op_type in {
            "DynamicQuantizeLinear",
            "MatMulInteger",
            "ConvInteger",
            "QLinearMatMul",
            "QLinearConv",
        }:
            raise ModelError(
                f"node {node.name!r} is {node.op_type}: TensorRT takes explicit Q/DQ only",
                fix="Quantize it in the QDQ format.",
            )
    return [note for mac in macs if (note := _axis_note(mac))]


def _check(node: ir.Node) -> None:
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    codes = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    dtype = zero.dtype if zero is not None and zero.dtype is not None else codes.dtype if codes is not None else None
    if dtype == ir.DataType.UINT8 or (zero is None and node.op_type == "QuantizeLinear" and dtype is None):
        raise ModelError(f"node {node.name!r} quantises to UINT8, which TensorRT turns into INT8 silently", fix=_FIX)
    if dtype == ir.DataType.INT32:
        raise ModelError(f"node {node.name!r} dequantises INT32: a bias must stay float for TensorRT", fix=_FIX)
    array = constant(zero)
    if array is not None and np.any(array.astype(np.float32) != 0):
        raise ModelError(f"node {node.name!r} has a zero point other than 0", fix=_FIX)
    scale = constant(node.inputs[1])
    if scale is not None and not (np.isfinite(scale).all() and (scale > 0).all()):
        raise ModelError(f"node {node.name!r} has a scale that is 0, negative or not finite", fix=_FIX)


def _axis_note(mac: MacNode) -> str | None:
    """Hold the axis of a dequantised weight against the output channels' axis."""
    for index in (0, 1):
        value = mac.node.inputs[index]
        producer = value.producer() if value is not None else None
        if producer is None or producer.op_type != "DequantizeLinear" or constant(producer.inputs[0]) is None:
            continue
        scale = constant(producer.inputs[1])
        codes = constant(producer.inputs[0])
        if scale is None or codes is None or scale.size == 1:
            continue
        right = {"Conv": 0, "ConvTranspose": 1}.get(mac.node.op_type)
        if right is None:
            transposed = mac.node.op_type == "Gemm" and attribute(mac.node, "transB", 0)
            right = 0 if transposed else codes.ndim - 1
        axis = attribute(producer, "axis", 1) % codes.ndim
        if axis != right:
            weight = f"node {producer.name!r}: the weight of {mac.name!r}"
            return f"{weight} has its scales on axis {axis}, TensorRT wants {right}"
    return None
