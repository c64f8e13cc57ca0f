"""`medical`: slices of a scan and a record with missing values; whether something is found, and its stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmtrt.zoo.blocks.encoders import ImageEncoder
from mmtrt.zoo.blocks.heads import joint_loss
from mmtrt.zoo.blocks.tables import TableEncoder
from mmtrt.zoo.checkpoints import load_checkpoint
from mmtrt.zoo.data import collating, events, medical
from mmtrt.zoo.data.batches import Batch, BatchSize
from mmtrt.zoo.data.collating import collate
from mmtrt.zoo.data.medical import COLUMNS, LENGTHS, SIZE, SLICES, STAGES, samples
from mmtrt.zoo.models.vqa import Factory
from mmtrt.zoo.training.lesson import Lesson
from mmtrt.zoo.training.loop import Schedule
from mmtrt.zoo.training.scoring import commonest, scored, to_inputs

NAME: Final = "medical"
MODALITIES: Final = {"image": ["image"], "table": ["table", "table_mask"]}
METRICS: Final = {"finding": ["auroc", "accuracy"], "stage": ["accuracy"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class MedicalConfig:
    """Sizes of the model; the defaults are those of the checkpoint."""

    width: int = 96
    hidden: int = 128
    channels: tuple[int, ...] = (16, 32, 64)
    residual_blocks: int = 1


class Medical(nn.Module):
    """A scan and a record in; finding and stage out."""

    def __init__(self, config: MedicalConfig | None = None) -> None:
        super().__init__()
        c = config or MedicalConfig()
        self.config = c
        self.image_encoder = ImageEncoder(SIZE, c.channels, c.residual_blocks, c.width)
        self.image_expand = nn.Linear(c.width, c.width)
        self.table_encoder = TableEncoder(len(COLUMNS), c.hidden, c.width)
        self.image_norm = nn.LayerNorm(c.width)
        self.table_norm = nn.LayerNorm(c.width)
        self.hidden = nn.Linear(2 * c.width, c.hidden)
        self.finding = nn.Linear(c.hidden, 2)
        self.stage = nn.Linear(c.hidden, len(STAGES))

    def forward(self, image: Tensor, table: Tensor, table_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Finding `(B, 2)` and stage `(B, 4)` of image `(B, 3, 64, 64)`, table and its mask `(B, 10)`."""
        # A nodule fills a few cells: each is judged by itself before they are summed up.
        cells = functional.gelu(self.image_expand(self.image_encoder(image)))
        seen = self.image_norm(cells.mean(dim=1))
        known = self.table_norm(self.table_encoder(table, table_mask))
        hidden = functional.gelu(self.hidden(torch.cat([seen, known], dim=1)))
        return self.finding(hidden), self.stage(hidden)


def loss(model: Medical, batch: Batch, blind: str) -> Tensor:
    """Cross entropy of the finding and of the stage, alike."""
    logits = model(**to_inputs(batch, MODALITIES, blind))
    return joint_loss(logits, [torch.from_numpy(batch[f"label.{name}"]) for name in METRICS], (1.0, 1.0))


def scores(model: Medical, split: str, count: int, blind: str) -> dict[str, float]:
    """Area under the ROC curve and accuracy of the finding, accuracy of the stage."""
    return scored(model, samples(split, count), METRICS, lengths=LENGTHS, modalities=MODALITIES, blind=blind)


def inputs() -> dict[str, Tensor]:
    """One patient."""
    table = torch.ones((1, len(COLUMNS)))
    return {"image": torch.zeros((1, SLICES, SIZE, SIZE)), "table": table, "table_mask": table.long()}


def data() -> dict[str, Any]:
    """What the card says of the patients."""
    return {
        "image": f"{SLICES} slices of {SIZE}x{SIZE}: tissue, vessels, and in 70% a nodule, smooth or spiky",
        "preprocessing": medical.PREPROCESSING,
        "table": COLUMNS,
        "missing": "15% of the values",
        "stages": STAGES,
        "what decides": "the nodule's size and edge, the record's risk, and noise that is in neither",
        "seed": events.DATA_SEED,
    }


def chance() -> dict[str, float]:
    """A score that says nothing, and the commonest classes."""
    count = LESSON.test_events
    return {
        "any order": 0.5,
        "commonest finding (accuracy)": commonest(samples("test", count), "finding"),
        "commonest stage (accuracy)": commonest(samples("test", count), "stage"),
    }


LESSON: Final = Lesson(
    name=NAME,
    what="Three slices of a scan, and a record whose missing values are masked, as two vectors side by side; out come "
    "whether there is a finding, and its stage.",
    modalities=tuple(MODALITIES),
    make=Medical,
    batch=medical.training_batch,
    loss=loss,
    scores=scores,
    metric="finding auroc",
    schedule=Schedule(steps=500, peak=2e-3, warmup=100, size=BatchSize(scenes=96, questions=1), validate_every=125),
    inputs=inputs,
    data=data,
    data_modules=(events, collating, medical),
    chance=chance,
    validation_events=1000,
    test_events=4000,
)


def factory() -> Factory:
    """Give what `zoo:medical` exports: module, example inputs, dynamic axes, extra facts."""
    batch = collate(list(samples("validation", 2)), LENGTHS)
    axes = {"image": {0: "batch"}, "table": {0: "batch"}, "table_mask": {0: "batch"}}
    extra = {
        "modalities": MODALITIES,
        "outputs": list(METRICS),
        "ranges": {"batch": [1, 8, 32]},
        "samples": samples,
    }
    return load_checkpoint(Medical(), NAME), {n: torch.from_numpy(batch[n]) for n in axes}, axes, extra
