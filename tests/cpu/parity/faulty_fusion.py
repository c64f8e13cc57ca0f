"""The test model as someone may have broken it: each a source of its own, with the right model's weights."""

from __future__ import annotations

import torch
from tiny_fusion import TinyFusion, factory
from torch import nn

Source = tuple[nn.Module, dict[str, torch.Tensor], dict[str, dict[int, str]], dict[str, object]]


class Broken(TinyFusion):
    """Without the block's residual, without the mask, or with a residual too many."""

    residual = 1
    masking = 1
    more = 0

    def forward(self, image: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        stem = torch.relu(self.stem(image))
        grid = torch.relu(self.block(stem) + stem if self.residual else self.block(stem))
        regions = grid.flatten(2).transpose(1, 2)
        words = self.norm(self.words(ids))
        least = torch.finfo(words.dtype).min if self.masking else 0.0
        hidden = (1 - mask[:, None, :].to(words.dtype)) * least
        own = torch.softmax(self.query(words) @ self.query(words).transpose(1, 2) / 4 + hidden, dim=-1) @ words
        own = own + words if self.more else own
        seen = torch.softmax(self.query(own) @ self.key(regions).transpose(1, 2) / 4, dim=-1) @ self.value(regions)
        fused = torch.relu(self.hidden((seen + own).mean(dim=1)))
        return self.answer(fused), self.match(fused)


class NoResidual(Broken):
    residual = 0


class NoMask(Broken):
    masking = 0


class MoreResidual(Broken):
    more = 1


def _with(kind: type[TinyFusion]) -> Source:
    module, *rest = factory()
    broken = kind()
    broken.load_state_dict(module.state_dict())
    return broken.eval(), *rest  # type: ignore[return-value]


def no_residual() -> Source:
    return _with(NoResidual)


def more_residual() -> Source:
    return _with(MoreResidual)


def no_mask() -> Source:
    return _with(NoMask)


def no_bias() -> Source:
    made = _with(TinyFusion)
    made[0].value.bias = None  # type: ignore[union-attr, assignment]
    return made


def other_weights() -> Source:
    made = _with(TinyFusion)
    torch.manual_seed(1)
    made[0].load_state_dict(TinyFusion().state_dict())
    return made


def swapped() -> Source:
    """The key and the value have each other's weights."""
    made = _with(TinyFusion)
    module = made[0]
    module.key, module.value = module.value, module.key
    return made
