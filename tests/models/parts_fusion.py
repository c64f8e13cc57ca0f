"""Small models in several parts for tests: encoders, a fuser, a decoder step; made in a moment, exported in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from mmtrt.parts import Pipeline, Step

WORDS = 24
WIDTH = 16
START, END, PAD, STEPS = 1, 2, 0, 8
TEXT = (2, 5, 8)


class Eye(nn.Module):
    """`image` `(B, 3, 16, 16)` to `regions` `(B, 16, 16)`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, stride=2)
        self.block = nn.Conv2d(8, WIDTH, 3, padding=1, stride=2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.block(torch.relu(self.stem(image)))).flatten(2).transpose(1, 2)


class Fuser(nn.Module):
    """`regions` and `ids`, `mask` `(B, T)` to `fused` `(B, T, 16)` and `answer` `(B, 5)`."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)
        self.answer = nn.Linear(WIDTH, 5)

    def forward(
        self, regions: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        words = self.norm(self.words(ids))
        seen = torch.softmax(self.query(words) @ self.key(regions).transpose(1, 2) / 4, dim=-1) @ self.value(regions)
        kept = mask[:, :, None].to(words.dtype)
        fused = (seen + words) * kept
        return fused, self.answer(fused.sum(dim=1) / kept.sum(dim=1).clamp(min=1))


class Speaker(nn.Module):
    """A decoder's step: `token` `(B, 1)`, what it looks at, its cache `(B, P, 16)`, whose slot 0 is empty."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.places = nn.Embedding(STEPS + 1, WIDTH)
        self.own = nn.Linear(WIDTH, 3 * WIDTH)
        self.look = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, WORDS)

    def forward(
        self,
        token: torch.Tensor,
        fused: torch.Tensor,
        mask: torch.Tensor,
        past_key: torch.Tensor,
        past_value: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        steps = past_key.shape[1]
        place = torch.arange(steps + 1)
        h = self.words(token) + self.places(place[-1:] - 1)
        query, key, value = self.own(h).chunk(3, dim=-1)
        keys, values = torch.cat([past_key, key], dim=1), torch.cat([past_value, value], dim=1)
        hidden = (place == 0).to(h.dtype) * torch.finfo(torch.float32).min
        h = h + torch.softmax(query @ keys.transpose(1, 2) / 4 + hidden, dim=-1) @ values
        masked = (1 - mask[:, None, :].to(h.dtype)) * -1e4
        h = h + torch.softmax(self.look(h) @ fused.transpose(1, 2) / 4 + masked, dim=-1) @ fused
        return self.out(h)[:, 0], keys, values


def samples(count: int = 48, seed: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Ragged events; every eighth lacks its image, every eighth is padded."""
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        length = int(rng.integers(TEXT[0], TEXT[2] + 1))
        image = rng.standard_normal((3, 16, 16)).astype(np.float32)
        mask = np.ones(length, dtype=np.int64)
        mask[length // 2 + 1 :] = index % 8 != 5
        yield {"image": image * np.float32(index % 8 != 3), "ids": rng.integers(3, WORDS, length), "mask": mask}


def _eye() -> tuple[Any, ...]:
    axes = {"image": {0: "batch"}}
    return (
        Eye().eval(),
        {"image": torch.randn(2, 3, 16, 16)},
        axes,
        {"outputs": ["regions"], "ranges": {"batch": [1, 2, 8]}},
    )


def _fuser(*outputs: str) -> tuple[Any, ...]:
    inputs = {"ids": torch.randint(3, WORDS, (2, 5)), "mask": torch.ones(2, 5, dtype=torch.int64)}
    axes = {"regions": {0: "batch"}, "ids": {0: "batch", 1: "text"}, "mask": {0: "batch", 1: "text"}}
    return Fuser().eval(), inputs, axes, {"outputs": list(outputs), "ranges": {"text": list(TEXT)}}


def two() -> Pipeline:
    """An encoder and a fuser: `image`, `ids` and `mask` to `fused` and `answer`."""
    torch.manual_seed(0)
    return Pipeline(
        parts={"eye": _eye(), "fuser": _fuser("fused", "answer")},
        links=["eye.regions -> fuser.regions"],
        outputs=["fuser.fused", "fuser.answer"],
        samples=samples,
    )


def speaking() -> Pipeline:
    """An encoder, a fuser and a decoder step: `image`, `ids` and `mask` to `answer` and a phrase."""
    torch.manual_seed(3)
    speaker = Speaker().eval()
    for parameter in speaker.parameters():
        parameter.data *= 2.5  # Phrases that depend on what is seen, and that end at different lengths.
    cache = torch.zeros(2, 3, WIDTH)
    inputs = {"token": torch.full((2, 1), START), "past_key": cache, "past_value": cache}
    axes = {"token": {0: "batch"}, "fused": {0: "batch", 1: "text"}, "mask": {0: "batch", 1: "text"}}
    axes |= {name: {0: "batch", 1: "past"} for name in ("past_key", "past_value")}
    step = Step(
        part="speaker",
        token="token",
        logits="logits",
        cache={"past_key": "present_key", "past_value": "present_value"},
        start=START,
        end=END,
        pad=PAD,
        steps=STEPS,
    )
    outputs = {"outputs": ["logits", "present_key", "present_value"]}
    return Pipeline(
        parts={
            "eye": _eye(),
            "fuser": _fuser("fused", "answer"),
            "speaker": (speaker, {**inputs, "mask": torch.ones(2, 5, dtype=torch.int64)}, axes, outputs),
        },
        links=["eye.regions -> fuser.regions", "fuser.fused -> speaker.fused"],
        outputs=["fuser.answer"],
        step=step,
        samples=samples,
    )
