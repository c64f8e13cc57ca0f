"""`cummax` and `cummin` without a scan: each place meets all before it.

`T x T` comparisons a row, in operators that the parser takes, where a scan would be one step after the other. As in
PyTorch, the place of the last of equal values is told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnxscript.onnx_opset import opset18 as op

__all__ = ["TABLE"]


def cummax(self: Any, dim: int) -> Any:
    """`(..., T, ...)` becomes the largest value so far along `dim`, and its place."""
    return _running(self, dim, op.ReduceMax, _lowest)


def cummin(self: Any, dim: int) -> Any:
    """`(..., T, ...)` becomes the smallest value so far along `dim`, and its place."""
    return _running(self, dim, op.ReduceMin, _highest)


def _running(given: Any, dim: int, reduce: Callable[..., Any], filler: Callable[[ir.DataType], Any]) -> Any:
    kind, rank = given.dtype, len(given.shape)
    if not rank:
        return op.Identity(given), _int(0)
    order = [axis for axis in range(rank) if axis != dim % rank] + [dim % rank]
    values = op.Transpose(given, perm=order)
    # Neither ONNX nor TensorRT reduces booleans.
    number = ir.DataType.INT32 if kind == ir.DataType.BOOL else kind
    if number != kind:
        values = op.Cast(values, to=number)
    places = op.Range(_int(0), op.Squeeze(op.Shape(values, start=-1)), _int(1))
    so_far = op.LessOrEqual(op.Unsqueeze(places, _axis(0)), op.Unsqueeze(places, _axis(1)))
    row = op.Unsqueeze(values, _axis(-2))
    best = reduce(op.Where(so_far, row, filler(number)), _axis(-1), keepdims=0)
    here = op.And(so_far, op.Equal(row, op.Unsqueeze(best, _axis(-1))))
    last = op.ReduceMax(op.Where(here, places, _int(-1)), _axis(-1), keepdims=0)
    back = [order.index(axis) for axis in range(rank)]
    if number != kind:
        best = op.Cast(best, to=kind)
    return op.Transpose(best, perm=back), op.Transpose(last, perm=back)


def _lowest(kind: ir.DataType) -> Any:
    numpy = np.dtype(kind.numpy())
    least = -math.inf if numpy.kind == "f" else int(np.iinfo(numpy).min)
    return op.Constant(value=ir.tensor(least, dtype=kind))


def _highest(kind: ir.DataType) -> Any:
    numpy = np.dtype(kind.numpy())
    most = math.inf if numpy.kind == "f" else int(np.iinfo(numpy).max)
    return op.Constant(value=ir.tensor(most, dtype=kind))


def _int(number: int) -> Any:
    return op.Constant(value_int=number)


def _axis(number: int) -> Any:
    return op.Constant(value_ints=[number])


TABLE: Mapping[Any, Any] = {torch.ops.aten.cummax.default: cummax, torch.ops.aten.cummin.default: cummin}
