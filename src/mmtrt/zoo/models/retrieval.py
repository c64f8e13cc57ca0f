"""`retrieval`: a picture tower and a text tower that meet in a dot product; trained by contrast (InfoNCE).

Both towers start from the encoders of `vqa-coattention`: what they know of colours and words need not be learned anew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from mmtrt.zoo import preprocessing
from mmtrt.zoo.blocks.encoders import ImageEncoder, TextEncoder, additive_mask
from mmtrt.zoo.blocks.towers import PooledProjection, contrastive_loss
from mmtrt.zoo.checkpoints import borrow, load_checkpoint
from mmtrt.zoo.data import collating, events, retrieval, scenes, words
from mmtrt.zoo.data.batches import Batch, BatchSize
from mmtrt.zoo.data.collating import collate
from mmtrt.zoo.data.retrieval import LENGTHS, samples, training_batch
from mmtrt.zoo.data.scenes import IMAGE_SIZE
from mmtrt.zoo.models.vqa import Factory
from mmtrt.zoo.training.lesson import Lesson
from mmtrt.zoo.training.loop import Schedule
from mmtrt.zoo.training.scoring import scored, to_inputs

NAME: Final = "retrieval"
PARENT: Final = "vqa-coattention"
MODALITIES: Final = {"image": ["image"], "text": ["ids", "mask"]}
METRICS: Final = {"embeddings": ["recall_at_1"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalConfig:
    """Sizes of the model; the defaults are those of the checkpoint, the encoders' those of `vqa-coattention`."""

    width: int = 128
    heads: int = 4
    hidden: int = 160
    channels: tuple[int, ...] = (32, 64, 96)
    residual_blocks: int = 2
    text_blocks: int = 2
    pooled: int = 256
    embedding: int = 64


class Retrieval(nn.Module):
    """A picture and a caption in; a unit vector of each out."""

    def __init__(self, config: RetrievalConfig | None = None) -> None:
        super().__init__()
        c = config or RetrievalConfig()
        self.config = c
        self.image_encoder = ImageEncoder(IMAGE_SIZE, c.channels, c.residual_blocks, c.width)
        self.text_encoder = TextEncoder(
            len(words.QUESTION_WORDS), words.TEXT_MAX, c.width, c.heads, c.hidden, c.text_blocks
        )
        self.image_projection = PooledProjection(c.width, c.pooled, c.embedding)
        self.text_projection = PooledProjection(c.width, c.pooled, c.embedding)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, image: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Unit vectors of picture and caption, `(B, 2, E)`; image `(B, 3, 64, 64)`, ids and mask `(B, T <= 16)`."""
        return torch.stack([self.encode_image(image), self.encode_text(ids, mask)], dim=1)

    def encode_image(self, image: Tensor) -> Tensor:
        """`(B, 3, 64, 64)` to unit vectors `(B, E)`."""
        vector: Tensor = self.image_projection(self.image_encoder(image))
        return vector

    def encode_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Ids and mask `(B, T)` to unit vectors `(B, E)`."""
        vector: Tensor = self.text_projection(self.text_encoder(ids * mask, additive_mask(mask)), mask)
        return vector


def loss(model: Retrieval, batch: Batch, blind: str) -> Tensor:
    """Contrast of the pairs of a batch; the learned scale stays below 100, as in CLIP."""
    both = model(**to_inputs(batch, MODALITIES, blind))
    identity = torch.from_numpy(batch["label.embeddings"][:, 0])
    return contrastive_loss(both[:, 0], both[:, 1], identity, model.log_scale.exp().clamp(max=100.0))


def scores(model: Retrieval, split: str, count: int, blind: str) -> dict[str, float]:
    """Recall at 1 among a gallery of `count` events of the split, in both directions together."""
    return scored(model, samples(split, count), METRICS, lengths=LENGTHS, modalities=MODALITIES, blind=blind)


def start(model: Retrieval) -> str:
    """Put the trained encoders of `vqa-coattention` in."""
    borrow(model, PARENT, ("image_encoder", "text_encoder"))
    return f"both encoders start from {PARENT}"


def inputs() -> dict[str, Tensor]:
    """One pair with the longest caption."""
    text = torch.ones((1, words.TEXT_MAX), dtype=torch.int64)
    return {"image": torch.zeros((1, 3, IMAGE_SIZE, IMAGE_SIZE)), "ids": text, "mask": text}


def data() -> dict[str, Any]:
    """What the card says of the pairs."""
    return {
        "image": f"{scenes.MIN_THINGS} to {scenes.MAX_THINGS} things on a shaded grey ground with noise, 64x64 RGB",
        "preprocessing": scenes.PREPROCESSING,
        "text": "size, colour and shape of every thing, in random order, in three wordings: 7 to 16 tokens",
        "identity": "scenes with the same things are each other's right answers",
        "seed": events.DATA_SEED,
    }


def chance() -> dict[str, float]:
    """A guess among the gallery."""
    return {"one of the gallery": 1 / LESSON.test_events}


LESSON: Final = Lesson(
    name=NAME,
    what="A picture and a caption, each by a tower of its own, as unit vectors whose product says whether they belong.",
    modalities=tuple(MODALITIES),
    make=Retrieval,
    batch=training_batch,
    loss=loss,
    scores=scores,
    metric="embeddings recall at 1",
    schedule=Schedule(steps=320, peak=1e-3, warmup=50, size=BatchSize(scenes=96, questions=1), validate_every=160),
    inputs=inputs,
    data=data,
    data_modules=(scenes, words, events, collating, retrieval),
    chance=chance,
    start=start,
    validation_events=1000,
    test_events=2000,
)


def factory() -> Factory:
    """Give what `zoo:retrieval` exports: module, example inputs, dynamic axes, extra facts."""
    batch = collate([s for s in samples("validation", 40) if len(s["ids"]) <= 12][:2], {"ids": 12, "mask": 12})
    axes = {"image": {0: "batch"}, "ids": {0: "batch", 1: "text"}, "mask": {0: "batch", 1: "text"}}
    extra = {
        "modalities": MODALITIES,
        "outputs": list(METRICS),
        "ranges": {"batch": [1, 8, 32], "text": [words.TEXT_MIN, 12, words.TEXT_MAX]},
        "samples": samples,
        "preprocessing": preprocessing.RETRIEVAL,
    }
    return load_checkpoint(Retrieval(), NAME), {n: torch.from_numpy(batch[n]) for n in axes}, axes, extra
