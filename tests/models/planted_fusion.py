"""A small fusion model with one of each part in which a fault can sit, and its sources with a fault in a module.

`factory` is the correct one. Each part is a module of its own, so that each fault has a path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional

WORDS, WIDTH, HEADS = 24, 32, 2
TEXT = (3, 6, 9)
Source = tuple[nn.Module, dict[str, torch.Tensor], dict[str, dict[int, str]], dict[str, object]]


class Block(nn.Module):
    """Two convolutions with a normalisation between, and the residual around them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.second(torch.relu(self.norm(self.first(x)))))


class Image(nn.Module):
    """`(B, 3, 16, 16)` to `(B, 16, WIDTH)`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList([Block(16), Block(16)])
        self.project = nn.Conv2d(16, WIDTH, 2, stride=2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(image))
        for block in self.blocks:
            x = block(x)
        return self.project(x).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Queries `(B, Q, WIDTH)` over `(B, K, WIDTH)`; `mask` `(B, K)` is 1 where there is something to see."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.value, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, seen: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        q, k, v = (_split(part(y)) for part, y in ((self.query, x), (self.key, seen), (self.value, seen)))
        scores = q @ k.transpose(2, 3) / (WIDTH // HEADS) ** 0.5
        if mask is not None:
            scores = scores + (1 - mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        return self.out((torch.softmax(scores, dim=-1) @ v).transpose(1, 2).flatten(2))


def _split(x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(2, (HEADS, WIDTH // HEADS)).transpose(1, 2)


class Layer(nn.Module):
    """Attention over the text itself, then a feed-forward part, each with its residual and its norm."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.before, self.after = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.hidden, self.output = nn.Linear(WIDTH, 64), nn.Linear(64, WIDTH)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.before(x + self.dropout(self.attention(x, x, mask)))
        return self.after(x + self.dropout(self.output(functional.gelu(self.hidden(x)))))


class Text(nn.Module):
    """`(B, T)` ids and mask to `(B, T, WIDTH)`; what the norm gets is large, as in models that were trained long."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(WORDS, WIDTH), nn.Embedding(TEXT[2] + 1, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.layers = nn.ModuleList([Layer(), Layer()])

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.norm(self.words(ids) + self.positions(places))
        for layer in self.layers:
            x = layer(x, mask)
        return x


class PlantedFusion(nn.Module):
    """`image` `(B, 3, 16, 16)`, `ids` and `mask` `(B, T)` to `colour` and `shape` `(B, 4)` and `size` `(B, 1)`."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = Image(), Text()
        self.fusion = Attention()
        self.trunk = nn.Linear(2 * WIDTH, 48)
        self.colour, self.shape, self.size = nn.Linear(48, 4), nn.Linear(48, 4), nn.Linear(48, 1)

    def forward(self, image: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        text = self.text(ids, mask)
        fused = torch.cat([text, self.fusion(text, self.image(image))], dim=-1)
        x = torch.relu(self.trunk(fused[:, 0]))
        return self.colour(x), self.shape(x), self.size(x)


def samples(count: int = 40, seed: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Ragged texts, every eighth wholly masked; each sample is the same whatever `count` is."""
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        length = int(rng.integers(TEXT[0], TEXT[2] + 1))
        yield {
            "image": rng.standard_normal((3, 16, 16)).astype(np.float32),
            "ids": rng.integers(1, WORDS, length),
            "mask": np.full(length, 1 if index % 8 != 7 else 0, dtype=np.int64),
        }


def _lively(seed: int) -> PlantedFusion:
    """Weights as training leaves them: no bias is 0, each norm scales, statistics are those of data."""
    torch.manual_seed(seed)
    model = PlantedFusion()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.normal_(0, 0.3)
            elif weight.ndim == 1:
                weight.uniform_(0.6, 1.6)
            elif "attention" in name or "fusion" in name or "trunk" in name:
                weight.mul_(2)  # Attention that looks somewhere, heads that tell one event from another.
        model.text.words.weight.mul_(150)
        model.text.positions.weight.mul_(100)
        model.train()
        for _ in range(8):
            model.image(torch.randn(16, 3, 16, 16))
    return model.eval()


def _source(model: nn.Module) -> Source:
    torch.manual_seed(1)
    inputs = {
        "image": torch.randn(2, 3, 16, 16),
        "ids": torch.randint(1, WORDS, (2, 6)),
        "mask": torch.ones(2, 6, dtype=torch.int64),
    }
    axes = {"image": {0: "batch"}, "ids": {0: "batch", 1: "text"}, "mask": {0: "batch", 1: "text"}}
    extra: dict[str, object] = {
        "modalities": {"image": ["image"], "text": ["ids", "mask"]},
        "outputs": ["colour", "shape", "size"],
        "ranges": {"batch": [1, 2, 4], "text": list(TEXT)},
        "samples": samples,
    }
    return model, inputs, axes, extra


def factory() -> Source:
    """The correct model."""
    return _source(_lively(0))


def other_checkpoint() -> Source:
    """The weights of another training."""
    return _source(_lively(5))


def batch_statistics() -> Source:
    """One BatchNorm takes the statistics of its batch, as in training mode."""
    model = _lively(0)
    model.image.blocks[1].norm.track_running_stats = False
    model.image.blocks[1].norm.running_mean = model.image.blocks[1].norm.running_var = None
    return _source(model)


class _Left(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.dropout(x, 0.1, training=True)


def dropout_on() -> Source:
    """One dropout was left in training mode."""
    model = _lively(0)
    model.text.layers[0].dropout = _Left().eval()
    return _source(model)


FAULTY: dict[str, Callable[[], Source]] = {
    "other_checkpoint": other_checkpoint,
    "batch_statistics": batch_statistics,
    "dropout_on": dropout_on,
}
