"""Small fusion models for tests: image and text in, two heads out; made in a moment, exported in seconds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

WORDS = 20
TEXT = (2, 5, 8)
VOCABULARY = (
    *("<pad>", "what", "which", "how", "is", "the", "a", "this", "colour", "shape"),
    *("size", "circle", "square", "large", "small", "left", "right", "of", "there", "many"),
)
PREPROCESSING = {
    "schema": "mmtrt.preprocessing/1",
    "raw": {
        "image": {
            "kind": "image",
            "input": "image",
            "size": [16, 16],
            "resize": "bilinear",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.25, 0.25, 0.25],
        },
        "question": {
            "kind": "text",
            "ids": "ids",
            "mask": "mask",
            "words": list(VOCABULARY),
            "pad": "<pad>",
            "separators": "?.",
            "length": [TEXT[0], TEXT[2]],
        },
    },
}
LABELS = {"answer": ["red", "green", "blue", "yes", "no"], "match": ["unmatched", "matched"]}


class TinyFusion(nn.Module):
    """`image` `(B, 3, 16, 16)`, `ids` and `mask` `(B, T)` to `answer` `(B, 5)` and `match` `(B, 2)`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block = nn.Conv2d(8, 8, 3, padding=1)
        self.words = nn.Embedding(WORDS, 16)
        self.norm = nn.LayerNorm(16)
        self.query = nn.Linear(16, 16)
        self.key = nn.Linear(8, 16)
        self.value = nn.Linear(8, 16)
        self.hidden = nn.Linear(16, 32)
        self.answer = nn.Linear(32, 5)
        self.match = nn.Linear(32, 2)

    def forward(self, image: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        stem = torch.relu(self.stem(image))
        grid = torch.relu(self.block(stem) + stem)
        regions = grid.flatten(2).transpose(1, 2)
        words = self.norm(self.words(ids))
        hidden = (1 - mask[:, None, :].to(words.dtype)) * torch.finfo(words.dtype).min
        own = torch.softmax(self.query(words) @ self.query(words).transpose(1, 2) / 4 + hidden, dim=-1) @ words
        seen = torch.softmax(self.query(own) @ self.key(regions).transpose(1, 2) / 4, dim=-1) @ self.value(regions)
        fused = torch.relu(self.hidden((seen + own).mean(dim=1)))
        return self.answer(fused), self.match(fused)


def samples(count: int = 40, seed: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Ragged samples with labels; each is the same whatever `count` is."""
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        length = int(rng.integers(TEXT[0], TEXT[2] + 1))
        yield {
            "image": rng.standard_normal((3, 16, 16)).astype(np.float32),
            "ids": rng.integers(1, WORDS, length),
            "mask": np.ones(length, dtype=np.int64),
            "label.answer": np.asarray(rng.integers(0, 5)),
            "label.match": np.asarray(rng.integers(0, 2)),
        }


def factory() -> tuple[nn.Module, dict[str, torch.Tensor], dict[str, dict[int, str]], dict[str, object]]:
    """A complete source."""
    torch.manual_seed(0)
    inputs = {
        "image": torch.randn(2, 3, 16, 16),
        "ids": torch.randint(1, WORDS, (2, 5)),
        "mask": torch.ones(2, 5, dtype=torch.int64),
    }
    axes = {"image": {0: "batch"}, "ids": {0: "batch", 1: "text"}, "mask": {0: "batch", 1: "text"}}
    extra: dict[str, object] = {
        "modalities": {"image": ["image"], "text": ["ids", "mask"]},
        "outputs": ["answer", "match"],
        "ranges": {"batch": [1, 2, 8], "text": list(TEXT)},
        "samples": samples,
        "preprocessing": PREPROCESSING,
        "labels": LABELS,
    }
    return TinyFusion().eval(), inputs, axes, extra


def plain() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A source that tells as little as it may."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval(), {"input": torch.randn(4, 6)}


class Refused(nn.Module):
    """Uses an operator for which TensorRT has no layer: a determinant."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.det(self.inner(x).reshape(-1, 2, 2))


def refused() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A source whose operator the parser refuses."""
    torch.manual_seed(0)
    return Refused().eval(), {"x": torch.randn(2, 4)}
