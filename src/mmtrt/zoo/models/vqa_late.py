"""`vqa-late`: visual question answering by late fusion: each modality predicts alone, predictions are summed.

It can't answer what needs both: the picture says which colours there are, the question that a colour is asked for,
and nothing which of them. That is the nature of late fusion, not a fault.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import torch
from torch import Tensor, nn

from mmtrt.zoo.blocks.fusion import LateFusion, Readout
from mmtrt.zoo.checkpoints import load_checkpoint
from mmtrt.zoo.data.batches import BatchSize
from mmtrt.zoo.models.vqa import Factory, Vqa, VqaConfig, example, from_coattention, heads_on
from mmtrt.zoo.models.vqa_coattention import LESSON as PARENT
from mmtrt.zoo.training.lesson import Lesson
from mmtrt.zoo.training.loop import Schedule

__all__ = ["LESSON", "NAME", "Apart", "SummedHeads", "VqaLate", "factory"]

NAME: Final = "vqa-late"


class Apart(Readout):
    """A vector of each modality that knows nothing of the other: image `(B, 3 D)`, text `(B, D)`."""

    def forward(self, image: Tensor, text: Tensor, _mask: Tensor) -> tuple[Tensor, Tensor]:
        """Image tokens `(B, G, D)` and text tokens `(B, T, D)`, whose first has seen the others under the mask."""
        said, *seen = torch.split(self.read(image, text), image.shape[2], dim=1)
        return torch.cat(seen, dim=1), said


class SummedHeads(nn.Module):
    """Heads for each modality, and of each head's two predictions a weighted sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.image, self.text = heads_on(3 * width, width), heads_on(width, width)
        self.sums = nn.ModuleList(LateFusion(modalities=2) for _ in range(3))

    def forward(self, vectors: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Answer `(B, A)`, match `(B, 2)` and generate `(B, L, V)` logits of the image's and the text's vector."""
        seen, said = self.image(vectors[0]), self.text(vectors[1])
        logits = []
        for fuse, one, other in zip(self.sums, seen, said, strict=True):
            flat = torch.stack([one.flatten(1), other.flatten(1)], dim=1)
            logits.append(fuse(flat).reshape(one.shape))
        return tuple(logits)


class VqaLate(Vqa):
    """The picture predicts, the question predicts, and a weighted sum decides."""

    def __init__(self, config: VqaConfig | None = None) -> None:
        c = config or VqaConfig()
        super().__init__(c, Apart(c.width), SummedHeads(c.width))


LESSON: Final[Lesson[Vqa]] = replace(
    PARENT,
    name=NAME,
    what="A picture and a question, each of which predicts alone; a weighted sum of the predictions gives the answer, "
    "whether the two match, and a phrase. Late fusion can't answer what needs both.",
    make=VqaLate,
    schedule=Schedule(steps=300, warmup=50, validate_every=100, size=BatchSize(scenes=32, questions=4)),
    start=from_coattention,
    before=(),
    blind_steps={},
)


def factory() -> Factory:
    """Give what `zoo:vqa-late` exports: module, example inputs, dynamic axes, extra facts."""
    return example(load_checkpoint(VqaLate(), NAME))
