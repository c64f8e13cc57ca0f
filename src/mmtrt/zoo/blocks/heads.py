"""Heads on a fused vector, and the joint loss over them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class VqaHeads(nn.Module):
    """Answer, match and phrase from a fused vector `(B, F)`, over one shared hidden layer.

    Returns answer `(B, A)`, match `(B, 2)` and generate `(B, L, V)` logits; all L words come at once.
    """

    def __init__(self, fused: int, hidden: int, answers: int, length: int, words: int) -> None:
        super().__init__()
        self.length, self.vocabulary = length, words
        self.hidden = nn.Linear(fused, hidden)
        self.answer = nn.Linear(hidden, answers)
        self.match = nn.Linear(hidden, 2)
        self.generate = nn.Linear(hidden, length * words)

    def forward(self, fused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the three heads."""
        hidden = functional.gelu(self.hidden(fused))
        phrase = self.generate(hidden).reshape(hidden.shape[0], self.length, self.vocabulary)
        return self.answer(hidden), self.match(hidden), phrase


def joint_loss(
    logits: Sequence[Tensor], labels: Sequence[Tensor], weights: Sequence[float] = (1.0, 0.5, 0.5)
) -> Tensor:
    """Weighted sum of the heads' mean cross entropies: logits `(B, ..., C)` and labels `(B, ...)`, -1 = ignored.

    A head without one label in the batch adds 0.
    """
    total = torch.zeros(())
    for head, label, weight in zip(logits, labels, weights, strict=True):
        flat, wanted = head.float().flatten(0, -2), label.flatten()
        losses = functional.cross_entropy(flat, wanted, ignore_index=-1, reduction="sum")
        total = total + weight * losses / (wanted >= 0).sum().clamp(min=1)
    return total
