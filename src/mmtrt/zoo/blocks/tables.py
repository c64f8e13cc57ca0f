"""Building blocks for structured records, with values that are missing."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["TableEncoder"]


class TableEncoder(nn.Module):
    """A record of C values, `(B, C)`, to one vector `(B, D)`: two Linear layers on the values and which are there."""

    def __init__(self, columns: int, hidden: int, width: int) -> None:
        super().__init__()
        self.expand = nn.Linear(2 * columns, hidden)
        self.contract = nn.Linear(hidden, width)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """`mask` is `(B, C)`, 1 where a value is there; one that is missing may be anything, NaN too."""
        # Multiplied by 0, a NaN would stay one.
        known = torch.where(mask > 0, values, torch.zeros_like(values))
        told = torch.cat([known, mask.to(values.dtype)], dim=1)
        vector: Tensor = self.contract(functional.gelu(self.expand(told)))
        return vector
