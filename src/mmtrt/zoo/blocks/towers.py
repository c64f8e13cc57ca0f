"""Building blocks for two towers that meet only in a dot product: pooled unit vectors, and the loss over pairs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmtrt.zoo.blocks.pooling import masked_mean

__all__ = ["PooledProjection", "contrastive_loss"]


class PooledProjection(nn.Module):
    """Tokens `(B, T, D)` to one vector of length 1, `(B, E)`: each token bent by itself, their mean projected."""

    def __init__(self, width: int, hidden: int, embedding: int) -> None:
        super().__init__()
        self.token_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.project = nn.Linear(hidden, embedding)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask` is `(B, T)`, 1 = keep; None keeps all. Where nothing is kept, the vector is the same for all."""
        bent = functional.gelu(self.expand(self.token_norm(tokens)))
        pooled = bent.mean(dim=1) if mask is None else masked_mean(bent, mask)
        return functional.normalize(self.project(self.norm(pooled)), dim=-1, eps=1e-4)


def contrastive_loss(one: Tensor, other: Tensor, identity: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE of unit vectors `(B, E)` that belong together row by row (arXiv:2103.00020, fig. 3).

    `identity` is `(B,)`: rows of equal identity are no rivals of one another. `scale` is the inverse temperature.
    """
    # In bfloat16 near neighbours would be equal.
    with torch.autocast(one.device.type, enabled=False):
        logits = scale * one.float() @ other.float().T
    twins = (identity[:, None] == identity[None, :]) & ~torch.eye(len(identity), dtype=torch.bool)
    logits = logits.masked_fill(twins, torch.finfo(torch.float32).min)
    rows = torch.arange(len(identity))
    return 0.5 * (functional.cross_entropy(logits, rows) + functional.cross_entropy(logits.T, rows))
