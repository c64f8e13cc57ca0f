"""What the image encoder learns before it meets a question: which thing is in which cell of the picture."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mmtrt.zoo.blocks.encoders import ImageEncoder
from mmtrt.zoo.data.batches import Batch, BatchSize, cell_labels, picture_batch
from mmtrt.zoo.data.events import event
from mmtrt.zoo.data.scenes import COLOURS, SHAPES, SIZES, normalise, render
from mmtrt.zoo.training.lesson import Phase
from mmtrt.zoo.training.loop import Schedule

_CLASSES: Final = (2, len(SIZES), len(COLOURS), len(SHAPES))
_EMPTY_WEIGHT: Final = 0.3
"""Most cells are empty: they count less."""


class PictureReader(nn.Module):
    """An image encoder under a linear head that is thrown away afterwards."""

    def __init__(self, encoder: ImageEncoder, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(width, sum(_CLASSES))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Logits per cell, `(B, 64, n)` each: empty or not, size, colour, shape."""
        return torch.split(self.head(self.encoder(image)), list(_CLASSES), dim=2)


def picture_loss(model: PictureReader, batch: Batch) -> Tensor:
    """Cross entropy of presence over all cells, plus those of the attributes over the cells with a thing."""
    image = torch.from_numpy(normalise(batch["image"])).contiguous(memory_format=torch.channels_last)
    cells = torch.from_numpy(batch["cells"]).flatten(0, 1)
    present, *attributes = (logits.float().flatten(0, 1) for logits in model(image))
    weight = torch.tensor([_EMPTY_WEIGHT, 1.0])
    total = functional.cross_entropy(present, (cells[:, 0] >= 0).long(), weight=weight)
    for logits, wanted in zip(attributes, cells.T, strict=True):
        total = total + functional.cross_entropy(logits, wanted, ignore_index=-1)
    return total


def things_read(model: PictureReader, count: int) -> float:
    """Share of the things of `count` validation pictures that are found with all attributes right."""
    scenes = [event("validation", i).scene for i in range(count)]
    cells = np.stack([cell_labels(s) for s in scenes])
    with torch.inference_mode():
        logits = model(torch.from_numpy(normalise(np.stack([render(s) for s in scenes]))))
    said = np.stack([one.argmax(-1).numpy() for one in logits], axis=-1)
    there = cells[..., 0] >= 0
    right = (said[there][:, 0] == 1) & (said[there][:, 1:] == cells[there]).all(axis=1)
    return float(right.mean())


def _reader(model: nn.Module) -> PictureReader:
    encoder = model.get_submodule("image_encoder")
    if not isinstance(encoder, ImageEncoder):
        raise TypeError(f"{type(model).__name__} has no ImageEncoder")
    return PictureReader(encoder, encoder.project.out_channels)


READING: Final[Phase[Any]] = Phase(
    name="pictures",
    what="image encoder alone: things read",
    part=_reader,
    batch=picture_batch,
    loss=picture_loss,
    score=things_read,
    schedule=Schedule(steps=800, peak=2e-3, size=BatchSize(scenes=64, questions=0)),
)
"""What the image encoder of a visual question answering model learns first."""
