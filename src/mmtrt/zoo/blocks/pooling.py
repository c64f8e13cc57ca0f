"""Building blocks that make one vector of several: masked means, bags of embeddings, vectors with their products."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor, nn

__all__ = ["EmbeddingPool", "ProductFusion", "masked_mean"]


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Mean of tokens `(B, T, D)` where `mask`, `(B, T)`, is 1; `(B, D)`, 0 where nothing is kept."""
    keep = mask.to(tokens.dtype)[:, :, None]
    return (tokens * keep).sum(dim=1) / keep.sum(dim=1).clamp(min=1.0)


class EmbeddingPool(nn.Module):
    """Mean embedding of a bag of ids: ids and mask `(B, T)` to `(B, D)`; 0 for an empty bag.

    What `nn.EmbeddingBag(mode="mean")` does, as a gather and a masked mean: TensorRT has no loop over bags to run.
    """

    def __init__(self, items: int, width: int) -> None:
        super().__init__()
        self.items = nn.Embedding(items, width)
        nn.init.normal_(self.items.weight, std=0.3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """`mask` is 1 for an item and 0 for padding."""
        return masked_mean(self.items(ids), mask)


class ProductFusion(nn.Module):
    """Vectors of M modalities, `(B, D)` each, side by side with each pair's product: `(B, D * (M + M (M - 1) / 2))`.

    A product is large where both modalities are: what matches is seen by one layer.
    """

    def forward(self, *modalities: Tensor) -> Tensor:
        """Vectors first, then the products in the order of `itertools.combinations`."""
        products = [one * other for one, other in combinations(modalities, 2)]
        return torch.cat([*modalities, *products], dim=1)
