"""Models that answer a question on a picture with something further in sight, all in early fusion."""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn
from torch.nn import functional

from mmtrt.zoo.data.batches import BatchSize
from mmtrt.zoo.models.vqa import Pictured, VqaConfig, start_from
from mmtrt.zoo.models.vqa_early import NAME as PARENT
from mmtrt.zoo.models.vqa_early import ConcatenatedTokens
from mmtrt.zoo.training.loop import Schedule

__all__ = ["SCHEDULE", "Answerer", "from_early"]

SCHEDULE: Final = Schedule(steps=1000, warmup=50, validate_every=150, size=BatchSize(scenes=32, questions=4))


class Answerer(Pictured):
    """The tokens of picture, question and a third modality go through the same blocks; one head answers."""

    def __init__(self, config: VqaConfig, vocabulary: int, answers: int) -> None:
        super().__init__(config, vocabulary)
        c = config
        self.fusion = ConcatenatedTokens(c.width, c.heads, c.fusion_hidden, c.fusion_blocks, modalities=3)
        self.hidden = nn.Linear(4 * c.width, c.width)
        self.answer = nn.Linear(c.width, answers)

    def answer_from(self, image_tokens: Tensor, *further: Tensor) -> Tensor:
        """Logits `(B, A)` of image tokens `(B, 64, D)` and of the others' tokens and masks, the question's first."""
        logits: Tensor = self.answer(functional.gelu(self.hidden(self.fusion(image_tokens, *further))))
        return logits


def from_early(model: Answerer) -> str:
    """Start from the encoders and the fusion of vqa-early."""
    return start_from(model, PARENT, ("image_encoder", "text_encoder", "fusion"))
