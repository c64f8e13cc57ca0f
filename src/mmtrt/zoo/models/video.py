"""`video`: frames and sensor readings over time; when the car reaches the other thing, and how that moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mmtrt.zoo.blocks.temporal import FrameEncoder, ReadingEncoder, TemporalFusion
from mmtrt.zoo.checkpoints import load_checkpoint
from mmtrt.zoo.data import driving, world
from mmtrt.zoo.data.batches import Batch, BatchSize
from mmtrt.zoo.training.lesson import Lesson, Phase
from mmtrt.zoo.training.loop import Schedule

NAME: Final = "video"
INPUTS: Final = ("frames", "frame_mask", "sensors", "sensor_mask")
HEADS: Final = ("arrival", "motion")

Factory = tuple[nn.Module, dict[str, Tensor], dict[str, dict[int, str]], dict[str, Any]]

_CHUNK: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoConfig:
    """Sizes of the model; the defaults are those of the checkpoint."""

    channels: tuple[int, ...] = (12, 24)
    width: int = 96
    heads: int = 4
    hidden: int = 128
    blocks: int = 3


class Video(nn.Module):
    """Frames and readings of some steps; logits of when the other is reached, and of how it moves."""

    def __init__(self, config: VideoConfig | None = None) -> None:
        super().__init__()
        c = config or VideoConfig()
        self.config = c
        self.frame_encoder = FrameEncoder(driving.SIZE, c.channels, c.width)
        self.reading_encoder = ReadingEncoder(len(driving.READINGS), c.width)
        self.fusion = TemporalFusion(driving.STEPS_MAX, c.width, c.heads, c.hidden, c.blocks)
        self.hidden = nn.Linear(c.width, c.width)
        self.arrival = nn.Linear(c.width, len(driving.EDGES_S) + 1)
        self.motion = nn.Linear(c.width, len(driving.MOTIONS))

    def forward(
        self, frames: Tensor, frame_mask: Tensor, sensors: Tensor, sensor_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits `(B, 4)` and `(B, 3)` of frames `(B, T, 3, 32, 32)` and sensors `(B, T, 3)`, T <= 12, and their masks.

        `frame_mask` is `(B, T)`, `sensor_mask` `(B, T, 3)`, both int64, 0 for what is missing.
        """
        seen = self.frame_encoder(frames) * frame_mask.to(frames.dtype)[:, :, None]
        tokens = seen + self.reading_encoder(sensors, sensor_mask)
        steps = torch.maximum(frame_mask, sensor_mask.amax(dim=2))
        now = functional.gelu(self.hidden(self.fusion(tokens, steps)))
        return self.arrival(now), self.motion(now)


def video_loss(model: Video, batch: Batch, blind: str = "") -> Tensor:
    """Mean cross entropy of both heads."""
    logits = model(**to_inputs(batch, blind))
    losses = (
        functional.cross_entropy(head.float(), torch.from_numpy(batch[f"label.{name}"]))
        for name, head in zip(HEADS, logits, strict=True)
    )
    return torch.stack(list(losses)).sum()


def to_inputs(batch: Batch, blind: str = "") -> dict[str, Tensor]:
    """Make the model's inputs of a batch; what it is blind to, "frames" or "sensors", is 0 and masked."""
    inputs = {name: torch.from_numpy(batch[name]) for name in INPUTS}
    for name in {"frames": ("frames", "frame_mask"), "sensors": ("sensors", "sensor_mask")}.get(blind, ()):
        inputs[name] = torch.zeros_like(inputs[name])
    return inputs


def video_scores(model: Video, split: str, count: int, blind: str) -> dict[str, float]:
    """Score the first `count` events of a split: shares of right classes, and of events with both right."""
    drawn = list(driving.samples(split, count))
    right = []
    for start in range(0, count, _CHUNK):
        batch = driving.collate(drawn[start : start + _CHUNK])
        with torch.inference_mode():
            logits = model(**to_inputs(batch, blind))
        said = np.stack([one.argmax(dim=1).numpy() for one in logits], axis=1)
        right.append(said == np.stack([batch[f"label.{name}"] for name in HEADS], axis=1))
    each = np.concatenate(right)
    return {
        "both right": float(each.all(axis=1).mean()),
        "arrival accuracy": float(each[:, 0].mean()),
        "motion accuracy": float(each[:, 1].mean()),
    }


class FrameReader(nn.Module):
    """A frame encoder under a linear head that is thrown away afterwards."""

    def __init__(self, encoder: FrameEncoder, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(width, 2)

    def forward(self, frames: Tensor) -> Tensor:
        """Angle in half rads and log of metres of the other, `(N, 2)`, in frames `(N, 3, 32, 32)`."""
        told: Tensor = self.head(self.encoder(frames[:, None])[:, 0])
        return told


_PLACE_SCALE: Final = torch.tensor([0.5, 1.0])


def frame_loss(model: FrameReader, batch: Batch) -> Tensor:
    """Mean absolute error of angle and distance."""
    wanted = torch.from_numpy(batch["bearings"]) / _PLACE_SCALE
    return (model(torch.from_numpy(batch["frames"])).float() - wanted).abs().mean()


def frames_read(model: FrameReader, count: int) -> float:
    """Share of frames of `count` validation drives where the other is found to 0.1 rad and a fifth of its distance."""
    rngs = (driving.event_rng("validation", driving.DATA_SEED, i) for i in range(count))
    batch = driving.single_frames([driving.event(rng) for rng in rngs])
    with torch.inference_mode():
        said = model(torch.from_numpy(batch["frames"])) * _PLACE_SCALE
    off = np.abs(said.numpy() - batch["bearings"])
    return float(((off[:, 0] < 0.1) & (off[:, 1] < np.log(1.2))).mean())


def _reader(model: Video) -> FrameReader:
    return FrameReader(model.frame_encoder, model.config.width)


FRAMES: Final = Phase(
    name="frames",
    what="the frame encoder alone: frames in which the other is found",
    part=_reader,
    batch=driving.frame_batch,
    loss=frame_loss,
    score=frames_read,
    schedule=Schedule(steps=300, peak=3e-3, warmup=30, validate_every=150, size=BatchSize(scenes=48, questions=1)),
)


def _chance() -> dict[str, float]:
    told = [(int(s["label.arrival"]), int(s["label.motion"])) for s in driving.samples("test", 1000)]
    _, counts = np.unique(np.array(told), axis=0, return_counts=True)
    return {"commonest pair of classes": float(counts.max() / len(told))}


def _largest() -> dict[str, Tensor]:
    return to_inputs(driving.collate([driving.padded(next(driving.samples("test", 1)))]))


LESSON: Final = Lesson(
    name=NAME,
    what="Frames and sensor readings of 4 to 12 steps, added step by step and fused over time by attention; out come "
    "when the car reaches what is ahead, and how that moves.",
    modalities=("frames", "sensors"),
    make=Video,
    batch=driving.training_batch,
    loss=video_loss,
    scores=video_scores,
    metric="both right",
    before=(FRAMES,),
    schedule=Schedule(steps=1000, peak=2e-3, warmup=60, validate_every=250, size=BatchSize(scenes=32, questions=1)),
    inputs=_largest,
    data=driving.description,
    data_modules=(world, driving),
    chance=_chance,
    validation_events=400,
    test_events=2000,
)


def load() -> Video:
    """Load the trained model, in eval mode; ModelError where the checkpoint is missing or unfit."""
    return load_checkpoint(Video(), NAME)


def factory() -> Factory:
    """Give what `zoo:video` exports: module, example inputs, dynamic axes, extra facts."""
    drawn = [driving.padded(s, 8) for s in driving.samples("test", 40) if len(s["frame_mask"]) <= 8]
    inputs = to_inputs(driving.collate(drawn[:2]))
    axes = {name: {0: "batch", 1: "steps"} for name in INPUTS}
    extra = {
        "modalities": {"frames": ["frames", "frame_mask"], "sensors": ["sensors", "sensor_mask"]},
        "outputs": list(HEADS),
        "ranges": {"batch": [1, 4, 16], "steps": [driving.STEPS_MIN, 8, driving.STEPS_MAX]},
        "samples": driving.samples,
    }
    return load(), inputs, axes, extra
