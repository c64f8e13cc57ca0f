"""Models with something to tell of: each has one thing that an engine's owner should know before a build."""

from __future__ import annotations

import torch
import two_towers
from torch import nn
from two_towers import Made, TwoTowers, made


class Deaf(TwoTowers):
    """Ignores the text, but for its length: no output depends on a word."""

    def read(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:  # noqa: ARG002 -- the point of it
        return torch.zeros(ids.shape[0], 8) + ids.shape[1] / 100


class Attending(TwoTowers):
    """Reads the text by a softmax over what is not masked; `filler` is what hides a word."""

    def __init__(self, filler: float) -> None:
        super().__init__()
        self.filler = filler

    def read(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        words = self.words(ids)
        scores = words.sum(dim=2).masked_fill(mask == 0, self.filler)
        return (torch.softmax(scores, dim=1)[..., None] * words).sum(dim=1)


class Refusing(TwoTowers):
    """Wants a word at least."""

    def read(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        torch._check(bool(mask.any()), lambda: "no word at all") if not torch.compiler.is_exporting() else None
        return super().read(ids, mask)


class Extreme(TwoTowers):
    """Divides by a number that FP16 does not have, and multiplies by one."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.full((8,), 1e6))
        with torch.no_grad():
            self.fuse.weight[0, :5] = 1e-9

    def read(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        read = super().read(ids, mask)
        return read * self.scale / (read.abs() * self.scale + 1e-10)


class Broken(TwoTowers):
    """Its training diverged: a bias is NaN."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.fuse.bias[3] = float("nan")


class Determinant(TwoTowers):
    """Has an operator for which TensorRT has no layer."""

    def read(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        read = super().read(ids, mask)
        squares = self.fuse(torch.cat([read, read], dim=1)).reshape(-1, 2, 2, 2)
        return read * torch.det(squares).sum(dim=1, keepdim=True)


class Padded(TwoTowers):
    """Its boolean mask says what to leave out, as PyTorch's `key_padding_mask` does."""

    def forward(self, image: torch.Tensor, ids: torch.Tensor, padding_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return super().forward(image, ids, (~padding_mask).long())


def deaf() -> Made:
    return made(Deaf)


def finite() -> Made:
    return made(lambda: Attending(torch.finfo(torch.float32).min))


def infinite() -> Made:
    return made(lambda: Attending(float("-inf")))


def refusing() -> Made:
    return made(Refusing)


def extreme() -> Made:
    return made(Extreme)


def broken() -> Made:
    return made(Broken)


def determinant() -> Made:
    return made(Determinant)


def padded() -> Made:
    module, inputs, axes, extra = made(Padded)
    mask = inputs.pop("mask")
    inputs["padding_mask"] = mask == 0
    axes["padding_mask"] = axes.pop("mask")
    return module, inputs, axes, extra | {"modalities": {"image": ["image"], "text": ["ids", "padding_mask"]}}


def told_masks(masks: object) -> Made:
    module, inputs, axes, extra = two_towers.factory()
    return module, inputs, axes, extra | {"masks": masks}


def masks_list() -> Made:
    return told_masks(["mask"])


def masks_none() -> Made:
    return told_masks([])


def masks_name() -> Made:
    return told_masks(["maks"])


def masks_value() -> Made:
    return told_masks({"mask": -1})


class Cut(nn.Module):
    """Cuts a table to the traced number of steps: any other is refused by the graph."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x.reshape(x.shape[0], 6 * 4) + y


def fixed() -> Made:
    axes = {"x": {0: "batch", 1: "steps"}, "y": {0: "batch"}}
    return Cut().eval(), {"x": torch.randn(2, 6, 4), "y": torch.randn(2, 24)}, axes, {"ranges": {"batch": [1, 2, 4]}}
