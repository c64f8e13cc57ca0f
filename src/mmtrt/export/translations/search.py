"""`searchsorted` and `bucketize` without a search: where a value goes is how many boundaries lie before it.

Each value meets each boundary, `N x M` comparisons that are summed: for the tens of boundaries that models look
through, cheaper on a GPU than a loop, and the parser takes it. For boundaries in ascending order, which PyTorch
demands too, the count is the place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir
import torch
from onnxscript.onnx_opset import opset18 as op

__all__ = ["TABLE"]


def searchsorted(
    sorted_sequence: Any,
    self: Any,
    out_int32: bool = False,  # noqa: FBT001, FBT002 -- PyTorch's signature
    right: bool = False,  # noqa: FBT001, FBT002
    side: Any = None,
    sorter: Any = None,
) -> Any:
    """Boundaries `(M)` or `(..., M)` and values of any shape, or `(..., N)`, become places in the values' shape."""
    if sorter is not None:
        last = len(sorted_sequence.shape) - 1
        sorted_sequence = op.GatherElements(sorted_sequence, sorter, axis=last)
    boundaries, values = sorted_sequence, op.Unsqueeze(self, _axis(-1))
    if len(boundaries.shape) > 1:
        boundaries = op.Unsqueeze(boundaries, _axis(-2))
    after = side == "right" if side is not None else right
    before = op.LessOrEqual(boundaries, values) if after else op.Less(boundaries, values)
    return _count(before, out_int32)


def searchsorted_scalar(
    sorted_sequence: Any,
    self: float,
    out_int32: bool = False,  # noqa: FBT001, FBT002
    right: bool = False,  # noqa: FBT001, FBT002
    side: Any = None,
    sorter: Any = None,
) -> Any:
    """Boundaries `(M)` and a number become a place, `()`."""
    value = op.Constant(value=ir.tensor(self, dtype=sorted_sequence.dtype))
    return searchsorted(sorted_sequence, value, out_int32, right, side, sorter)


def bucketize(
    self: Any,
    boundaries: Any,
    out_int32: bool = False,  # noqa: FBT001, FBT002
    right: bool = False,  # noqa: FBT001, FBT002
) -> Any:
    """Values of any shape and boundaries `(M)` become places in the values' shape."""
    return searchsorted(boundaries, self, out_int32, right)


def _count(before: Any, out_int32: bool) -> Any:  # noqa: FBT001
    kind = ir.DataType.INT32 if out_int32 else ir.DataType.INT64
    return op.ReduceSum(op.Cast(before, to=kind), _axis(-1), keepdims=0)


def _axis(number: int) -> Any:
    return op.Constant(value_ints=[number])


TABLE: Mapping[Any, Any] = {
    torch.ops.aten.searchsorted.Tensor: searchsorted,
    torch.ops.aten.searchsorted.Scalar: searchsorted_scalar,
    torch.ops.aten.bucketize.Tensor: bucketize,
}
