"""`recommend`: a product's picture and title beside what was bought before; is it clicked, what is bought next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmtrt.zoo.blocks.encoders import ImageEncoder, TextEncoder, additive_mask
from mmtrt.zoo.blocks.heads import joint_loss
from mmtrt.zoo.blocks.pooling import EmbeddingPool, ProductFusion, masked_mean
from mmtrt.zoo.checkpoints import load_checkpoint
from mmtrt.zoo.data import collating, events, recommend, scenes
from mmtrt.zoo.data.batches import Batch, BatchSize
from mmtrt.zoo.data.collating import collate
from mmtrt.zoo.data.recommend import (
    DEPARTMENTS,
    HISTORY_MAX,
    HISTORY_MIN,
    ITEMS,
    LENGTHS,
    TEXT_MAX,
    TEXT_MIN,
    WORDS,
    samples,
)
from mmtrt.zoo.data.scenes import IMAGE_SIZE
from mmtrt.zoo.models.vqa import Factory
from mmtrt.zoo.training.lesson import Lesson
from mmtrt.zoo.training.loop import Schedule
from mmtrt.zoo.training.scoring import commonest, scored, to_inputs

NAME: Final = "recommend"
MODALITIES: Final = {"image": ["image"], "text": ["ids", "mask"], "history": ["history", "history_mask"]}
METRICS: Final = {"click": ["auroc", "accuracy"], "department": ["accuracy", "hit_at_5"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class RecommendConfig:
    """Sizes of the model; the defaults are those of the checkpoint."""

    width: int = 64
    heads: int = 4
    hidden: int = 128
    channels: tuple[int, ...] = (16, 32, 48)
    residual_blocks: int = 1
    text_blocks: int = 1


class Recommend(nn.Module):
    """A product and a history in; click and next department out."""

    def __init__(self, config: RecommendConfig | None = None) -> None:
        super().__init__()
        c = config or RecommendConfig()
        self.config = c
        self.image_encoder = ImageEncoder(IMAGE_SIZE, c.channels, c.residual_blocks, c.width)
        self.text_encoder = TextEncoder(len(WORDS), TEXT_MAX, c.width, c.heads, c.hidden, c.text_blocks)
        self.history_pool = EmbeddingPool(ITEMS, c.width)
        self.history_project = nn.Linear(c.width, c.width)
        self.norms = nn.ModuleList(nn.LayerNorm(c.width) for _ in MODALITIES)
        self.fusion = ProductFusion()
        self.click_hidden = nn.Linear(6 * c.width, c.hidden)
        self.click = nn.Linear(c.hidden, 2)
        self.department = nn.Linear(c.width, len(DEPARTMENTS))

    def forward(
        self, image: Tensor, ids: Tensor, mask: Tensor, history: Tensor, history_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Click `(B, 2)` and next department `(B, 12)`.

        Image `(B, 3, 64, 64)`, ids and mask `(B, T <= 8)`, history and its mask `(B, H)` with any H.
        """
        seen = self.image_encoder(image).mean(dim=1)
        read = masked_mean(self.text_encoder(ids * mask, additive_mask(mask)), mask)
        bought = self.history_project(self.history_pool(history, history_mask))
        vectors = [norm(vector) for norm, vector in zip(self.norms, (seen, read, bought), strict=True)]
        click = self.click(functional.gelu(self.click_hidden(self.fusion(*vectors))))
        return click, self.department(vectors[2])


def loss(model: Recommend, batch: Batch, blind: str) -> Tensor:
    """Cross entropy of the click, and half of that of the department."""
    click, department = model(**to_inputs(batch, MODALITIES, blind))
    clicked, bought = (torch.from_numpy(batch[f"label.{name}"]) for name in METRICS)
    return joint_loss((click, department), (clicked, bought), (1.0, 0.5))


def scores(model: Recommend, split: str, count: int, blind: str) -> dict[str, float]:
    """Area under the ROC curve and accuracy of clicks; accuracy and hits among five of the next department."""
    return scored(model, samples(split, count), METRICS, lengths=LENGTHS, modalities=MODALITIES, blind=blind)


def inputs() -> dict[str, Tensor]:
    """One event of the largest size."""
    text, history = (torch.ones((1, length), dtype=torch.int64) for length in (TEXT_MAX, HISTORY_MAX))
    image = torch.zeros((1, 3, IMAGE_SIZE, IMAGE_SIZE))
    return {"image": image, "ids": text, "mask": text, "history": history, "history_mask": history}


def data() -> dict[str, Any]:
    """What the card says of the shop."""
    return {
        "image": "one product on a shaded grey ground with noise, 64x64 RGB",
        "preprocessing": scenes.PREPROCESSING,
        "text": f"a title of {TEXT_MIN} to {TEXT_MAX} tokens of {len(WORDS)}, one of which names the goods",
        "history": f"5 to {HISTORY_MAX} item ids of {ITEMS - 1}",
        "departments": DEPARTMENTS,
        "colours": scenes.COLOURS,
        "what decides": "the colour, seen in the picture alone, and the department, read in the title alone, must both "
        "be to the taste that shows in the history; 3% of clicks are accidents",
        "seed": events.DATA_SEED,
    }


def chance() -> dict[str, float]:
    """A score that says nothing, and the commonest department."""
    return {
        "any order": 0.5,
        "commonest department (accuracy)": commonest(samples("test", LESSON.test_events), "department"),
    }


LESSON: Final = Lesson(
    name=NAME,
    what="A product's picture and title, and the items that somebody has bought, as vectors side by side with their "
    "products; out come whether it is clicked, and the department of the next purchase.",
    modalities=tuple(MODALITIES),
    make=Recommend,
    batch=recommend.training_batch,
    loss=loss,
    scores=scores,
    metric="click auroc",
    schedule=Schedule(steps=800, peak=2e-3, warmup=100, size=BatchSize(scenes=96, questions=1), validate_every=200),
    inputs=inputs,
    data=data,
    data_modules=(scenes, events, collating, recommend),
    chance=chance,
    validation_events=1000,
    test_events=4000,
)


def factory() -> Factory:
    """Give what `zoo:recommend` exports: module, example inputs, dynamic axes, extra facts."""
    usual = {"ids": 6, "mask": 6, "history": 12, "history_mask": 12}
    fitting = (s for s in samples("validation", 90) if len(s["ids"]) <= 6 and len(s["history"]) <= 12)
    batch = collate([next(fitting), next(fitting)], usual)
    text, bought = {0: "batch", 1: "text"}, {0: "batch", 1: "history"}
    axes = {"image": {0: "batch"}, "ids": text, "mask": text, "history": bought, "history_mask": bought}
    extra = {
        "modalities": MODALITIES,
        "outputs": list(METRICS),
        "ranges": {
            "batch": [1, 8, 32],
            "text": [TEXT_MIN, 6, TEXT_MAX],
            "history": [HISTORY_MIN, 12, HISTORY_MAX],
        },
        "samples": samples,
    }
    return load_checkpoint(Recommend(), NAME), {n: torch.from_numpy(batch[n]) for n in axes}, axes, extra
