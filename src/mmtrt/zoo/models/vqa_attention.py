"""`vqa-attention`: visual question answering by attention fusion: a learned weight per modality, h = sum a_i x_i."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import torch
from torch import Tensor, nn

from mmtrt.zoo.blocks.fusion import GuidedPooling, ModalityAttention
from mmtrt.zoo.checkpoints import load_checkpoint
from mmtrt.zoo.data.batches import BatchSize
from mmtrt.zoo.models.vqa import Factory, Vqa, VqaConfig, example, from_coattention, heads_on
from mmtrt.zoo.models.vqa_coattention import LESSON as PARENT
from mmtrt.zoo.training.lesson import Lesson
from mmtrt.zoo.training.loop import Schedule

__all__ = ["LESSON", "NAME", "VqaAttention", "WeightedModalities", "factory"]

NAME: Final = "vqa-attention"


class WeightedModalities(nn.Module):
    """A vector of each modality, the image's pooled as the question asks; their weighted sum `(B, D)`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.pool = GuidedPooling(width, heads)
        self.see = nn.Linear(2 * width, width)
        self.say = nn.Linear(width, width)
        self.weigh = ModalityAttention(width)

    def forward(self, image: Tensor, text: Tensor, _mask: Tensor) -> Tensor:
        """Image tokens `(B, G, D)` and text tokens `(B, T, D)`, whose first has seen the others under the mask."""
        question = text[:, 0]
        seen = self.see(self.pool(image, question).flatten(1))
        fused: Tensor = self.weigh(torch.stack([seen, self.say(question)], dim=1))
        return fused


class VqaAttention(Vqa):
    """One vector a modality, summed with weights that depend on them."""

    def __init__(self, config: VqaConfig | None = None) -> None:
        c = config or VqaConfig()
        super().__init__(c, WeightedModalities(c.width, c.heads), heads_on(c.width, 2 * c.width))


LESSON: Final[Lesson[Vqa]] = replace(
    PARENT,
    name=NAME,
    what="A picture and a question, a vector of each (the picture's pooled as the question asks), fused by learned "
    "weights per modality; out come the answer, whether the two match, and a phrase.",
    make=VqaAttention,
    schedule=Schedule(steps=1200, warmup=50, validate_every=300, size=BatchSize(scenes=32, questions=4)),
    start=from_coattention,
    before=(),
    blind_steps={},
)


def factory() -> Factory:
    """Give what `zoo:vqa-attention` exports: module, example inputs, dynamic axes, extra facts."""
    return example(load_checkpoint(VqaAttention(), NAME))
