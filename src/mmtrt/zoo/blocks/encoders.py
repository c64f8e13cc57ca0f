"""Building blocks that turn one modality into tokens: a small ResNet, a small text transformer.

Attention is written out with Linear, matmul and softmax, so that the exported graph holds plain operators.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


def additive_mask(mask: Tensor) -> Tensor:
    """`(B, T)`, 1 = keep, to `(B, 1, 1, T)` float: 0 where kept, the lowest finite float where masked.

    A row that is masked throughout stays finite: all its scores are equal, and softmax spreads evenly.
    """
    keep = mask.to(torch.float32)[:, None, None, :]
    return (1.0 - keep) * torch.finfo(torch.float32).min


class Attention(nn.Module):
    """Multi-head attention of queries `(B, Q, D)` over a context `(B, K, D)`; returns `(B, Q, D)`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads")
        self.heads, self.head_width = heads, width // heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, queries: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask` is additive, broadcast to `(B, heads, Q, K)`; None attends to all of the context."""
        q, k, v = (self._split(t) for t in (self.query(queries), self.key(context), self.value(context)))
        scores = torch.matmul(q, k.transpose(2, 3)) * (1.0 / math.sqrt(self.head_width))
        if mask is not None:
            scores = scores + mask
        mixed = torch.matmul(torch.softmax(scores, dim=-1), v).transpose(1, 2)
        merged: Tensor = self.out(mixed.reshape(mixed.shape[0], mixed.shape[1], self.heads * self.head_width))
        return merged

    def _split(self, tokens: Tensor) -> Tensor:
        """`(B, T, D)` to `(B, heads, T, D / heads)`."""
        return tokens.reshape(tokens.shape[0], tokens.shape[1], self.heads, self.head_width).transpose(1, 2)


class FeedForward(nn.Module):
    """Two Linear layers with GELU between, `(B, T, D)` to `(B, T, D)`."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Expand, bend, contract."""
        result: Tensor = self.contract(functional.gelu(self.expand(tokens)))
        return result


class TransformerBlock(nn.Module):
    """Self-attention and feed-forward, each normalised before and added after: `(B, T, D)` to `(B, T, D)`."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = FeedForward(width, hidden)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask` is additive, broadcast to `(B, heads, T, T)`."""
        normed = self.attention_norm(tokens)
        tokens = tokens + self.attention(normed, normed, mask)
        result: Tensor = tokens + self.feed(self.feed_norm(tokens))
        return result


class TextEncoder(nn.Module):
    """Word and position embeddings, then transformer blocks: ids `(B, T)` to tokens `(B, T, D)`."""

    def __init__(self, words: int, length: int, width: int, heads: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.positions = nn.Parameter(torch.empty(length, width))
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, hidden) for _ in range(blocks))
        nn.init.normal_(self.words.weight, std=0.1)
        nn.init.normal_(self.positions, std=0.1)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """`mask` is additive, `(B, 1, 1, T)`; T is at most the `length` given."""
        tokens: Tensor = self.words(ids) + self.positions[: ids.shape[1]]
        for block in self.blocks:
            tokens = block(tokens, mask)
        return tokens


class ResidualBlock(nn.Module):
    """Conv-BN-ReLU-Conv-BN plus the input, then ReLU: `(B, C, H, W)` to `(B, C', H / stride, W / stride)`."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or channels != out_channels:
            self.skip = nn.Sequential(
                nn.Conv2d(channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, features: Tensor) -> Tensor:
        """Two convolutions beside a skip."""
        inner = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(features)))))
        return functional.relu(inner + self.skip(features))


def grid_waves(side: int, width: int) -> Tensor:
    """Sines and cosines of row and column, `(side * side, width)`: where the learned grid positions start.

    They begin about as large as the features, else questions of left and right are learned late.
    """
    steps = torch.linspace(0, 1, width // 4)
    frequencies = math.pi / (2 * side) * float(side) ** steps  # from a quarter turn across the grid to a half per cell
    angles = torch.arange(side)[:, None] * frequencies
    waves = torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)
    rows, columns = waves.repeat_interleave(side, dim=0), waves.repeat(side, 1)
    return torch.cat([rows, columns], dim=1)


class ImageEncoder(nn.Module):
    """A small ResNet and a projection: image `(B, 3, S, S)` to grid tokens `(B, G * G, D)`.

    The stem and each stage but the first halve the picture: three stages make G = S / 8.
    """

    def __init__(self, size: int, channels: Sequence[int], blocks: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels[0], 3, 2, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(channels[0])
        stages = [ResidualBlock(channels[0], channels[0], 1)]
        for before, after in pairwise(channels):
            stages.append(ResidualBlock(before, after, 2))
            stages.extend(ResidualBlock(after, after, 1) for _ in range(blocks - 1))
        self.stages = nn.Sequential(*stages)
        self.project = nn.Conv2d(channels[-1], width, 1)
        self.positions = nn.Parameter(grid_waves(size >> len(channels), width))

    def forward(self, image: Tensor) -> Tensor:
        """Grid tokens, row by row from the top left."""
        features = self.stages(functional.relu(self.stem_norm(self.stem(image))))
        tokens: Tensor = self.project(features).flatten(2).transpose(1, 2) + self.positions
        return tokens
