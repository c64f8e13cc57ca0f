"""`bev`: four cameras and a lidar in one bird's-eye view; what stands where around the car."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mmtrt.metrics.detection import CenterAp
from mmtrt.zoo.blocks.bev import CameraLift, Grid, PillarEncoder
from mmtrt.zoo.blocks.encoders import ResidualBlock
from mmtrt.zoo.checkpoints import load_checkpoint
from mmtrt.zoo.data import surround, world
from mmtrt.zoo.data.batches import Batch, BatchSize
from mmtrt.zoo.training.lesson import Lesson
from mmtrt.zoo.training.loop import Schedule

NAME: Final = "bev"
INPUTS: Final = ("images", "projection", "pillars", "cells", "pillar_mask")

Factory = tuple[nn.Module, dict[str, Tensor], dict[str, dict[int, str]], dict[str, Any]]

_CHUNK: Final = 50
_SPREAD: Final = 0.8
"""Cells by which a thing's target reaches beyond its centre."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BevConfig:
    """Sizes of the model; the defaults are those of the checkpoint."""

    camera: int = 24
    lidar: int = 32
    grid: int = 32
    deep: int = 48
    heights: tuple[float, ...] = (0.2, 1.0)


class Bev(nn.Module):
    """Pictures with their cameras' matrices, and pillars of points; a heatmap of things by kind, and offsets."""

    def __init__(self, config: BevConfig | None = None) -> None:
        super().__init__()
        c = config or BevConfig()
        self.config = c
        grid = Grid(size=surround.GRID, reach=surround.REACH_M)
        self.stem = nn.Conv2d(3, c.camera, 3, 2, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(c.camera)
        self.camera = ResidualBlock(c.camera, c.camera, 1)
        self.lift = CameraLift(grid, c.heights, (surround.ROWS, surround.COLUMNS))
        self.pillars = PillarEncoder(grid, surround.FEATURES, c.lidar)
        self.join = nn.Conv2d(c.camera * len(c.heights) + c.lidar, c.grid, 1, bias=False)
        self.join_norm = nn.BatchNorm2d(c.grid)
        self.near = ResidualBlock(c.grid, c.grid, 1)
        self.deep = nn.Sequential(ResidualBlock(c.grid, c.deep, 2), ResidualBlock(c.deep, c.deep, 1))
        self.up = nn.ConvTranspose2d(c.deep, c.grid, 2, 2)
        self.last = nn.Conv2d(c.grid, c.grid, 3, 1, 1, bias=False)
        self.last_norm = nn.BatchNorm2d(c.grid)
        self.heatmap = nn.Conv2d(c.grid, len(surround.KINDS), 1)
        self.offset = nn.Conv2d(c.grid, 2, 1)
        # Few cells hold a thing: begun at a chance of 1 in 50, the first steps don't go into learning that.
        nn.init.constant_(self.heatmap.bias, -3.9)  # type: ignore[arg-type]

    def forward(
        self, images: Tensor, projection: Tensor, pillars: Tensor, cells: Tensor, pillar_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits `(B, K, 32, 32)` by kind, and row and column from a cell's centre to a thing's, `(B, 2, 32, 32)`.

        Images `(B, N, 3, 32, 64)`, projection `(B, N, 3, 4)`; pillars `(B, P, 8, 6)`, cells and mask `(B, P)` int64.
        """
        return self.detect(images, self.lift.project(projection), self.pillars(pillars, cells, pillar_mask))

    def detect(self, images: Tensor, places: tuple[Tensor, Tensor], points: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse images, given where they show the grid's cells, with the points' grid `(B, C, 32, 32)`."""
        seen = self.lift(self.encode(images), *places)
        near = self.near(functional.relu(self.join_norm(self.join(torch.cat([seen, points], dim=1)))))
        features = functional.relu(self.last_norm(self.last(near + self.up(self.deep(near)))))
        return self.heatmap(features), self.offset(features)

    def encode(self, images: Tensor) -> Tensor:
        """Features `(B, N, C, 16, 32)` of images `(B, N, 3, 32, 64)`, one camera at a time."""
        flat = images.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        features: Tensor = self.camera(functional.relu(self.stem_norm(self.stem(flat))))
        return features.reshape(-1, images.shape[1], *features.shape[1:])


def targets(labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the heads shall say of labels `(B, M, 3)`: heatmap `(B, K, 32, 32)`, offsets `(B, 2, 32, 32)`, and where.

    The heatmap falls off from 1 at a thing's cell; offsets count where the last, `(B, 1, 32, 32)`, is 1.
    """
    kind, row, column = (part[:, :, None, None] for part in labels.unbind(dim=2))
    axis = torch.arange(surround.GRID, dtype=torch.float32)
    down, across = axis[:, None] - row.round(), axis[None, :] - column.round()
    there = torch.exp(-(down.square() + across.square()) / (2 * _SPREAD**2))
    heatmap = torch.stack([(there * (kind == k)).amax(dim=1) for k in range(len(surround.KINDS))], dim=1)
    own = ((down == 0) & (across == 0) & (kind >= 0)).float()
    away = torch.stack([(own * (row - row.round())).sum(dim=1), (own * (column - column.round())).sum(dim=1)], dim=1)
    return heatmap, away, own.sum(dim=1, keepdim=True).clamp(max=1.0)


def bev_loss(model: Bev, batch: Batch, blind: str = "") -> Tensor:
    """Focal loss of the heatmap, per thing, plus the offsets' absolute error at the things' cells.

    The former is CornerNet's (arXiv:1808.01244), eq. 1: cells near a centre are punished less.
    """
    images, projection, *lidar = to_inputs(batch, blind).values()
    with torch.autocast("cpu", enabled=False):
        places = model.lift.project(projection)
    heatmap, away = (out.float() for out in model.detect(images, places, model.pillars(*lidar)))
    wanted, offsets, own = targets(torch.from_numpy(batch["label.heatmap"]))
    sure, unsure = torch.sigmoid(heatmap), torch.sigmoid(-heatmap)
    hit = (wanted == 1) * unsure.square() * functional.logsigmoid(heatmap)
    miss = (wanted < 1) * (1 - wanted).pow(4) * sure.square() * functional.logsigmoid(-heatmap)
    things = own.sum().clamp(min=1.0)
    return -(hit + miss).sum() / things + ((away - offsets).abs() * own).sum() / things


def to_inputs(batch: Batch, blind: str = "") -> dict[str, Tensor]:
    """Make the model's inputs of a batch; blind to "cameras" the images are all 0, blind to "lidar" the mask is."""
    inputs = {name: torch.from_numpy(batch[name]) for name in INPUTS}
    for name in {"cameras": ("images",), "lidar": ("pillars", "cells", "pillar_mask")}.get(blind, ()):
        inputs[name] = torch.zeros_like(inputs[name])
    return inputs


class _AtOneCell(CenterAp):
    """Only what is within one cell counts."""

    distances = (1.0,)


def bev_scores(model: Bev, split: str, count: int, blind: str) -> dict[str, float]:
    """Score the first `count` events of a split: average precision, and how far off the offsets are, in metres."""
    overall, strict = CenterAp(), _AtOneCell()
    error = things = 0.0
    drawn = list(surround.samples(split, count))
    for start in range(0, count, _CHUNK):
        batch = surround.collate(drawn[start : start + _CHUNK])
        labels = batch["label.heatmap"]
        with torch.inference_mode():
            heatmap, away = model(**to_inputs(batch, blind))
            _, offsets, own = targets(torch.from_numpy(labels))
            error += float(((away - offsets).square().sum(dim=1, keepdim=True).sqrt() * own).sum())
            things += float(own.sum())
        overall.add(heatmap.numpy(), labels)
        strict.add(heatmap.numpy(), labels)
    return {
        "average precision": overall.value,
        "average precision, within one cell": strict.value,
        "offset error [m]": surround.CELL_M * error / max(things, 1.0),
    }


def _chance() -> dict[str, float]:
    """A heatmap that says the same everywhere."""
    metric = CenterAp()
    rng = np.random.default_rng(0)
    for sample in surround.samples("test", 200):
        metric.add(rng.random((1, len(surround.KINDS), surround.GRID, surround.GRID)), sample["label.heatmap"][None])
    return {"random heatmap": metric.value}


def _largest() -> dict[str, Tensor]:
    sample = surround.padded(next(surround.samples("test", 1)), surround.PILLARS_MAX)
    return to_inputs(surround.collate([sample]))


LESSON: Final = Lesson(
    name=NAME,
    what="Four cameras with their matrices, and a lidar's points in pillars, in one bird's-eye view by gather and "
    "scatter, concatenated; out come a heatmap of three kinds of things and their offsets.",
    modalities=("cameras", "lidar"),
    make=Bev,
    batch=surround.training_batch,
    loss=bev_loss,
    scores=bev_scores,
    metric="average precision",
    schedule=Schedule(
        steps=600, peak=4e-3, warmup=60, validate_every=200, size=BatchSize(scenes=16, questions=1), clip=5.0
    ),
    inputs=_largest,
    data=surround.description,
    data_modules=(world, surround),
    chance=_chance,
    validation_events=200,
    test_events=1000,
)


def load() -> Bev:
    """Load the trained model, in eval mode; ModelError where the checkpoint is missing or unfit."""
    return load_checkpoint(Bev(), NAME)


def factory() -> Factory:
    """Give what `zoo:bev` exports: module, example inputs, dynamic axes, extra facts."""
    inputs = to_inputs(surround.collate(list(surround.samples("test", 2))))
    pillars = {0: "batch", 1: "pillars"}
    axes = {"images": {0: "batch"}, "projection": {0: "batch"}, **dict.fromkeys(INPUTS[2:], pillars)}
    extra = {
        "modalities": {"cameras": ["images"], "lidar": list(INPUTS[2:])},
        "outputs": ["heatmap", "offset"],
        "ranges": {"batch": [1, 4, 16], "pillars": [surround.PILLARS_MIN, 64, surround.PILLARS_MAX]},
        "samples": surround.samples,
    }
    return load(), inputs, axes, extra
