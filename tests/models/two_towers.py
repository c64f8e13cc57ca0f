"""A model with what a trained one has: BatchNorm's counters, tied weights, a text mask; and odd relatives of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

WORDS = 12
Made = tuple[nn.Module, dict[str, torch.Tensor], dict[str, dict[int, str]], dict[str, object]]


class TwoTowers(nn.Module):
    """`image` `(B, 3, 8, 8)`, `ids` and `mask` `(B, T)` to `joint` `(B, 12)` and `seen` `(B, 8)`, the image alone."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.words = nn.Embedding(WORDS, 8)
        self.fuse = nn.Linear(16, 8)
        self.out = nn.Linear(8, WORDS, bias=False)
        self.out.weight = self.words.weight

    def forward(self, image: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen = self.image(image).mean(dim=(2, 3))
        joint = torch.cat([seen, self.read(ids, mask)], dim=1)
        return self.out(torch.relu(self.fuse(joint))), seen

    def read(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        kept = mask[..., None].to(torch.float32)
        return (self.words(ids) * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)


def made(build: Callable[[], nn.Module]) -> Made:
    torch.manual_seed(0)
    module = build()
    inputs = {
        "image": torch.randn(2, 3, 8, 8),
        "ids": torch.randint(0, WORDS, (2, 5)),
        "mask": torch.ones(2, 5, dtype=torch.int64),
    }
    axes = {"image": {0: "batch"}, "ids": {0: "batch", 1: "text"}, "mask": {0: "batch", 1: "text"}}
    extra: dict[str, object] = {
        "modalities": {"image": ["image"], "text": ["ids", "mask"]},
        "outputs": ["joint", "seen"],
        "ranges": {"batch": [1, 2, 4], "text": [2, 5, 8]},
    }
    return module.eval(), inputs, axes, extra


def factory() -> Made:
    """The model as it was trained."""
    return made(TwoTowers)
