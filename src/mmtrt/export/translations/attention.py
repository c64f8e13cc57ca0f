"""`scaled_dot_product_attention` as PyTorch computes it, with a row that sees nothing too.

1. Queries, keys and values may have any number of leading axes, as long as it is known; the exporter takes two.
2. A boolean mask is added as 0 or the type's lowest number; a float mask is added as it is.
3. A row that sees nothing, all False or all -inf, comes out as zeros, as PyTorch's safe softmax has it. The exporter's
   own writing gives the mean of the values for the one and NaN for the other. A row of large finite numbers is no such
   row: it comes out even in both.
4. The softmax itself never meets a row of -inf: no NaN is made, so none is observed by a calibration, and in FP16,
   whose masks are clamped, the row is zero still.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import onnx_ir as ir
import torch
from onnxscript.onnx_opset import opset18 as op

__all__ = ["TABLE"]


def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,  # noqa: ARG001 -- a trained module attends to all
    is_causal: bool = False,  # noqa: FBT001, FBT002 -- PyTorch's signature
    scale: Any = None,
    enable_gqa: bool = False,  # noqa: FBT001, FBT002
) -> Any:
    """`(..., L, E)`, `(..., S, E)`, `(..., S, V)` and a mask that broadcasts to `(..., L, S)` become `(..., L, V)`."""
    swapped = _swapped(len(key.shape))
    if enable_gqa and query.shape[-3] != key.shape[-3]:
        key, value = _repeated(query, key), _repeated(query, value)
    products = op.MatMul(op.Mul(query, _scale(query, scale)), op.Transpose(key, perm=swapped))
    if is_causal:
        return op.MatMul(op.Softmax(op.Add(products, _causal(query, key)), axis=-1), value)
    if attn_mask is None:
        return op.MatMul(op.Softmax(products, axis=-1), value)
    mask, sees = _boolean(attn_mask, query) if attn_mask.dtype == ir.DataType.BOOL else _added(attn_mask)
    mixed = op.MatMul(op.Softmax(op.Add(products, mask), axis=-1), value)
    return op.Where(sees, mixed, _number(0.0, query))


def _scale(query: Any, scale: Any) -> Any:
    width = query.shape[-1]
    if scale is None and isinstance(width, int):
        scale = 1 / math.sqrt(width)
    if scale is None:
        scale = op.Reciprocal(op.Sqrt(op.CastLike(op.Shape(query, start=-1), query)))
    return _number(scale, query) if isinstance(scale, float) else op.CastLike(scale, query)


def _boolean(mask: Any, query: Any) -> tuple[Any, Any]:
    """Return what is added to the scores, and which rows see anything, `(..., L, 1)`."""
    sees = op.Cast(op.ReduceMax(op.Cast(mask, to=ir.DataType.INT32), _axes(-1)), to=ir.DataType.BOOL)
    return op.Where(mask, _number(0.0, query), _number(query.dtype.min, query)), sees


def _added(mask: Any) -> tuple[Any, Any]:
    sees = op.Greater(op.ReduceMax(mask, _axes(-1)), _number(-math.inf, mask))
    return op.Where(sees, mask, _number(0.0, mask)), sees


def _causal(query: Any, key: Any) -> Any:
    # A token always sees the first, so no row is empty.
    size = op.Concat(op.Shape(query, start=-2, end=-1), op.Shape(key, start=-2, end=-1), axis=0)
    seen = op.Trilu(op.Expand(op.Constant(value_float=1.0), size), upper=0)
    hidden = op.Equal(seen, op.Constant(value_float=0.0))
    return op.Where(hidden, _number(query.dtype.min, query), _number(0.0, query))


def _repeated(query: Any, shared: Any) -> Any:
    """Repeat keys or values, `(..., K, S, E)`, for each of the query's heads, `(..., K * n, S, E)`."""
    rank, heads, groups = len(shared.shape), query.shape[-3], shared.shape[-3]
    axis = rank - 2
    copies = [1] * (rank + 1)
    copies[axis] = heads // groups
    spread = op.Expand(op.Unsqueeze(shared, _axes(axis)), _axes(*copies))
    lead = op.Shape(shared, end=-3) if rank > 3 else None
    rest = op.Shape(shared, start=-2)
    parts = [part for part in (lead, _axes(heads), rest) if part is not None]
    return op.Reshape(spread, op.Concat(*parts, axis=0))


def _swapped(rank: int) -> list[int]:
    return [*range(rank - 2), rank - 1, rank - 2]


def _axes(*numbers: int) -> Any:
    return op.Constant(value_ints=list(numbers))


def _number(number: float, like: Any) -> Any:
    return op.Constant(value=ir.tensor(number, dtype=like.dtype))


TABLE: Mapping[Any, Any] = {torch.ops.aten.scaled_dot_product_attention.default: scaled_dot_product_attention}
