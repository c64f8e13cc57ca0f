"""`nn.EmbeddingBag` and `F.embedding_bag` as a gather and a reduction.

The exporter writes bags as a loop over sequences, which TensorRT's parser refuses.

1. Bags of one length, `(B, N)`: gather `(B, N, D)`, then reduce over `N`.
2. Bags that offsets delimit in `(N)` indices: `member` `(B, N)` tells which index lies in which bag; sums and means are
   its product with the gathered `(N, D)`, a maximum looks at `(B, N, D)`.
3. What is padding counts in no sum, mean or maximum; a bag of nothing is zeros.

Sums are those of PyTorch up to the order of addition. `max_norm`, which changes the weights, is left to PyTorch.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import torch
from torch.nn import functional

from mmtrt.export.patches.replacing import replaced

__all__ = ["patched"]


@contextlib.contextmanager
def patched(module: torch.nn.Module, tell: Callable[[], None]) -> Iterator[None]:  # noqa: ARG001 -- bags need no module
    """Apply the rules above while the context lasts."""
    original = functional.embedding_bag

    def embedding_bag(
        input: torch.Tensor,  # noqa: A002 -- PyTorch's signature
        weight: torch.Tensor,
        offsets: torch.Tensor | None = None,
        max_norm: float | None = None,
        norm_type: float = 2,
        scale_grad_by_freq: bool = False,  # noqa: FBT001, FBT002
        mode: str = "mean",
        sparse: bool = False,  # noqa: FBT001, FBT002
        per_sample_weights: torch.Tensor | None = None,
        include_last_offset: bool = False,  # noqa: FBT001, FBT002
        padding_idx: int | None = None,
    ) -> torch.Tensor:
        if max_norm is not None or input.is_nested or (input.dim() == 1) == (offsets is None):
            return original(
                input,
                weight,
                offsets,
                max_norm,
                norm_type,
                scale_grad_by_freq,
                mode,
                sparse,
                per_sample_weights,
                include_last_offset,
                padding_idx,
            )
        tell()
        counts = torch.ones_like(input, dtype=torch.bool)
        if padding_idx is not None:
            counts = input != (padding_idx + weight.shape[0] if padding_idx < 0 else padding_idx)
        rows = functional.embedding(input, weight)
        if per_sample_weights is not None:
            rows = rows * per_sample_weights[..., None]
        if offsets is None:
            return _even(rows, counts, mode)
        return _delimited(rows, counts, offsets[:-1] if include_last_offset else offsets, mode)

    with replaced(functional, "embedding_bag", embedding_bag):
        yield


def _even(rows: torch.Tensor, counts: torch.Tensor, mode: str) -> torch.Tensor:
    """Reduce `(B, N, D)` to `(B, D)` over what counts, `(B, N)`."""
    if mode == "max":
        return _largest(rows, counts)
    total = torch.where(counts[..., None], rows, 0.0).sum(dim=1)
    return total if mode == "sum" else total / _number(counts, rows)


def _delimited(rows: torch.Tensor, counts: torch.Tensor, offsets: torch.Tensor, mode: str) -> torch.Tensor:
    """Reduce `(N, D)` to `(B, D)`: bag `b` starts at `offsets[b]` and ends where the next starts."""
    places = torch.arange(rows.shape[0], device=rows.device)
    started = offsets[:, None] <= places
    # The next bag has started where this one has ended; after the last none does.
    ended = functional.pad(started[1:].to(torch.int32), (0, 0, 0, 1)) > 0
    member = started & ~ended & counts
    if mode == "max":
        return _largest(rows[None], member)
    total = member.to(rows.dtype) @ rows
    return total if mode == "sum" else total / _number(member, rows)


def _largest(rows: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Reduce `(B or 1, N, D)` to the largest of what counts, `(B, N)`; of nothing, zeros."""
    lowest = torch.finfo(rows.dtype).min if rows.dtype.is_floating_point else -math.inf
    best = torch.where(counts[..., None], rows, lowest).amax(dim=1)
    return torch.where(counts.any(dim=1)[:, None], best, 0.0)


def _number(counts: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return counts.sum(dim=1, dtype=torch.int32).clamp(min=1).to(rows.dtype)[:, None]
