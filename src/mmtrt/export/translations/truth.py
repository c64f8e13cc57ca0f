"""`_is_all_true` and `_is_any_true`: one truth about a whole tensor, as a scalar."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir
import torch
from onnxscript.onnx_opset import opset18 as op

__all__ = ["TABLE"]


def is_all_true(self: Any) -> Any:
    """A boolean tensor of any shape becomes a boolean `()`: the least of its elements."""
    return op.Cast(op.ReduceMin(op.Cast(self, to=ir.DataType.INT32), keepdims=0), to=ir.DataType.BOOL)


def is_any_true(self: Any) -> Any:
    """A boolean tensor of any shape becomes a boolean `()`: the largest of its elements."""
    return op.Cast(op.ReduceMax(op.Cast(self, to=ir.DataType.INT32), keepdims=0), to=ir.DataType.BOOL)


TABLE: Mapping[Any, Any] = {
    torch.ops.aten._is_all_true.default: is_all_true,  # noqa: SLF001 -- the operators' own names
    torch.ops.aten._is_any_true.default: is_any_true,  # noqa: SLF001
}
