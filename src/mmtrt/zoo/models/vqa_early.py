"""`vqa-early`: visual question answering by early fusion: image and text tokens concatenated to one sequence."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from mmtrt.zoo.blocks.fusion import EarlyFusion, Readout
from mmtrt.zoo.checkpoints import load_checkpoint
from mmtrt.zoo.data.batches import BatchSize
from mmtrt.zoo.models.vqa import Factory, Vqa, VqaConfig, example, from_coattention, heads_on
from mmtrt.zoo.models.vqa_coattention import LESSON as PARENT
from mmtrt.zoo.training.lesson import Lesson
from mmtrt.zoo.training.loop import Schedule

__all__ = ["LESSON", "NAME", "SIZES", "ConcatenatedTokens", "VqaEarly", "factory"]

NAME: Final = "vqa-early"
SIZES: Final = VqaConfig(fusion_hidden=112)


class ConcatenatedTokens(Readout):
    """Early fusion and its readout: image `(B, G, D)`, text `(B, T, D)` and further tokens to one vector `(B, 4 D)`."""

    def __init__(self, width: int, heads: int, hidden: int, blocks: int, modalities: int = 2) -> None:
        super().__init__(width)
        self.early = EarlyFusion(width, heads, hidden, blocks, modalities)

    def forward(self, image: Tensor, *further: Tensor) -> Tensor:
        """`further` is tokens and additive mask `(B, 1, 1, T)` of each modality but the image, which is always there.

        The first of them is the text.
        """
        seen = torch.zeros_like(image[:, None, None, :, 0])
        pictured, said, *_ = self.early((image, *further[::2]), (seen, *further[1::2]))
        return self.read(pictured, said)


class VqaEarly(Vqa):
    """The picture's and the question's tokens go through the same transformer blocks, as one sequence."""

    def __init__(self, config: VqaConfig | None = None) -> None:
        c = config or SIZES
        fusion = ConcatenatedTokens(c.width, c.heads, c.fusion_hidden, c.fusion_blocks)
        super().__init__(c, fusion, heads_on(4 * c.width, c.fusion_hidden))


LESSON: Final[Lesson[Vqa]] = replace(
    PARENT,
    name=NAME,
    what="A picture and a question, their tokens concatenated to one sequence that transformer blocks work on; "
    "out come the answer, whether the two match, and a phrase.",
    make=VqaEarly,
    schedule=Schedule(steps=800, warmup=50, validate_every=200, size=BatchSize(scenes=32, questions=4)),
    start=from_coattention,
    before=(),
    blind_steps={},
)


def factory() -> Factory:
    """Give what `zoo:vqa-early` exports: module, example inputs, dynamic axes, extra facts."""
    return example(load_checkpoint(VqaEarly(), NAME))
