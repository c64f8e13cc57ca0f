"""Building blocks for what comes step by step, the last step being now; written out in plain operators.

Shorter sequences are padded in front: a step's place is counted from the end, so padding moves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmtrt.zoo.blocks.encoders import ResidualBlock, TransformerBlock, additive_mask


class FrameEncoder(nn.Module):
    """A small ResNet on each frame, `(B, T, 3, S, S)` to `(B, T, D)`; where things are stays in.

    The stem and each stage but the first of `channels` halve a frame.
    """

    def __init__(self, size: int, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels[0], 3, 2, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(channels[0])
        halving = [ResidualBlock(before, after, 2) for before, after in pairwise(channels)]
        self.stages = nn.Sequential(*halving, ResidualBlock(channels[-1], channels[-1], 1))
        side = size >> len(channels)
        self.project = nn.Linear(channels[-1] * side * side, width)

    def forward(self, frames: Tensor) -> Tensor:
        """Each frame by itself."""
        flat = frames.flatten(0, 1)
        features = self.stages(functional.relu(self.stem_norm(self.stem(flat))))
        tokens: Tensor = self.project(features.flatten(1))
        return tokens.reshape(-1, frames.shape[1], tokens.shape[1])


class ReadingEncoder(nn.Module):
    """Readings `(B, T, S)` of which some are missing to `(B, T, D)`: two layers on the readings and their mask."""

    def __init__(self, readings: int, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(2 * readings, width)
        self.second = nn.Linear(width, width)

    def forward(self, readings: Tensor, mask: Tensor) -> Tensor:
        """`mask` `(B, T, S)` is 1 for what was read; what was not read has no say, whatever it holds."""
        read = mask.to(readings.dtype)
        told: Tensor = self.second(functional.gelu(self.first(torch.cat([readings * read, read], dim=2))))
        return told


class TemporalFusion(nn.Module):
    """Transformer blocks over steps, `(B, T, D)` to now's token `(B, D)`; T is at most the `length` given."""

    def __init__(self, length: int, width: int, heads: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.length = length
        self.places = nn.Parameter(torch.empty(length, width))
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, hidden) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.places, std=0.2)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """`mask` `(B, T)` is 0 for steps of which nothing is known: none attends to them."""
        tokens = tokens + self.places[self.length - tokens.shape[1] :]
        hidden = additive_mask(mask)
        for block in self.blocks:
            tokens = block(tokens, hidden)
        now: Tensor = self.norm(tokens[:, -1])
        return now
