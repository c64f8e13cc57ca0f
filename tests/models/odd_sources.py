"""Sources with something the matter, each as a user would bring it."""

from __future__ import annotations

import torch
from torch import nn

Source = tuple[nn.Module, dict[str, torch.Tensor]]
Axes = dict[str, dict[int, str]]


class Limited(nn.Module):
    """Refuses more than twelve steps: a table of positions ends there."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(12, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.positions[: x.shape[1]]


def limited() -> tuple[nn.Module, dict[str, torch.Tensor], Axes]:
    return Limited().eval(), {"x": torch.randn(2, 10, 4)}, {"x": {0: "batch", 1: "steps"}}


def limited_told() -> tuple[nn.Module, dict[str, torch.Tensor], Axes, dict[str, object]]:
    return (*limited(), {"ranges": {"steps": [1, 10, 16]}})


class Unused(nn.Module):
    def forward(self, x: torch.Tensor, ghost: torch.Tensor) -> torch.Tensor:  # noqa: ARG002 -- the point of it
        return torch.relu(x)


def unused() -> Source:
    return Unused().eval(), {"x": torch.randn(2, 4), "ghost": torch.randn(2, 4)}


class Branching(nn.Module):
    """Takes another way for an odd number of columns."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.shape[1] % 2 == 0 else x * 3


def branching() -> tuple[nn.Module, dict[str, torch.Tensor], Axes]:
    return Branching().eval(), {"x": torch.randn(2, 4)}, {"x": {0: "batch", 1: "columns"}}


class Dropping(nn.Module):
    """Looks at values to choose its way: no graph can."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if bool(x.sum() > 0) else x * 3


def data_dependent() -> Source:
    return Dropping().eval(), {"x": torch.ones(2, 4)}


def training_mode() -> Source:
    return nn.Sequential(nn.Linear(4, 4), nn.Dropout()).train(), {"input": torch.randn(2, 4)}


def wrong_argument() -> Source:
    return Unused().eval(), {"x": torch.randn(2, 4), "gost": torch.randn(2, 4)}


def wrong_axes() -> tuple[nn.Module, dict[str, torch.Tensor], Axes]:
    return nn.Linear(4, 4).eval(), {"input": torch.randn(2, 4)}, {"inputs": {0: "batch"}}


def clashing_axes() -> tuple[nn.Module, dict[str, torch.Tensor], Axes]:
    return Unused().eval(), {"x": torch.randn(2, 4), "ghost": torch.randn(3, 4)}, {"x": {0: "b"}, "ghost": {0: "b"}}


def wrong_extra() -> tuple[nn.Module, dict[str, torch.Tensor], None, dict[str, object]]:
    return nn.Linear(4, 4).eval(), {"input": torch.randn(2, 4)}, None, {"modality": {}}


def raising() -> Source:
    raise RuntimeError("the checkpoint is on another disk")


def nothing() -> None:
    return None


class Structured(nn.Module):
    """Gives a dict with a nested tuple, as Hugging Face models do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> dict[str, object]:
        h = self.inner(x)
        return {"logits": h, "hidden": (x, h.argmax(-1))}


def structured() -> Source:
    return Structured().eval(), {"x": torch.randn(2, 4)}
