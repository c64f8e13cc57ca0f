"""Events over time: what a car's camera saw, and what its sensors read, at some steps up to now. Needs numpy only.

Pictures show where the other thing is; how fast the car goes, how it turns and how much time lies between two steps
is in the readings alone. So neither tells when the car reaches the other, nor, as the car turns, whether it moves.
Pictures and readings drop out now and then: then earlier ones must be carried on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mmtrt.zoo.data.batches import Batch, BatchSize
from mmtrt.zoo.data.world import Box, Camera, Floats, normalise, picture

SPLITS: Final = {"frames": 293, "train": 307, "validation": 311, "calibration": 313, "test": 317}
"""Split -> first word of its seed sequences; "frames" is what the frame encoder learns from beforehand."""

DATA_SEED: Final = 2026
SIZE: Final = 32
STEPS_MIN: Final = 4
STEPS_MAX: Final = 12
READINGS: Final = ("speed", "turn rate", "time since the step before")
MOTIONS: Final = ("left", "still", "right")
EDGES_S: Final = (0.9, 1.6, 2.75)
"""Between the classes of when the car reaches the other, in seconds at its speed of now."""

_CLEAR: Final = 0.08
"""No event is nearer to an edge than this share of it."""
_FAR_M: Final = (3.0, 20.0)
_SPEED: Final = (1.5, 16.0)
_LAPSE_S: Final = (0.06, 0.16)
_SHIFT: Final = (0.15, 0.35)
"""By how much one that moves is seen to have moved, over all steps, as a share of its distance."""
_FOCAL: Final = 24.0
_DROPPED: Final = 0.1
_SCALES: Final = np.array([8.0, 0.3, 0.1], dtype=np.float32)
"""What readings are divided by, so that they are about 1."""

Sample = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What was driven, step by step, oldest first, `(T,)` each, and the other thing as it is now.

    Speed (m/s), turn rate (rad/s) and lapse (s) hold from the step before to the step. `crossing` is the other's speed
    to the left. The car is now at the origin and looks along x.
    """

    speed: NDArray[np.float64]
    turn: NDArray[np.float64]
    lapse: NDArray[np.float64]
    other: Box
    crossing: float
    noise_seed: int

    @property
    def arrival_s(self) -> float:
        """When the car reaches the other at its speed of now."""
        return float(self.other.x / self.speed[-1])

    @property
    def labels(self) -> tuple[int, int]:
        """Class of the arrival, 0 being the soonest, and of the motion: 0 left, 1 still, 2 right."""
        return int(np.searchsorted(EDGES_S, self.arrival_s)), 1 - int(np.sign(self.crossing))


def event_rng(split: str, seed: int, index: int) -> np.random.Generator:
    """Make the random stream of one event; KeyError for an unknown split."""
    return np.random.default_rng((SPLITS[split], seed, index))


def event(rng: np.random.Generator) -> Event:
    """Draw a drive; distance and speed are drawn apart from each other, until no class is close to another."""
    steps = int(rng.integers(STEPS_MIN, STEPS_MAX + 1))
    while True:
        far, speed = (float(np.exp(rng.uniform(*np.log(span)))) for span in (_FAR_M, _SPEED))
        if all(abs(far / speed - edge) > _CLEAR * edge for edge in EDGES_S):
            break
    lapse = rng.uniform(*_LAPSE_S) * rng.uniform(0.85, 1.15, size=steps)
    before = np.append(np.cumsum(lapse[:0:-1])[::-1], 0.0)  # how long ago each step was
    moved = rng.uniform(*_SHIFT) * far / before[0]
    turned = rng.uniform(-0.3, 0.3) / before[0]
    return Event(
        speed=speed * (1 + rng.uniform(-0.15, 0.15) * before / before[0]),
        turn=turned * rng.uniform(0.8, 1.2, size=steps),
        lapse=lapse,
        other=_other(rng, far),
        crossing=float(moved * rng.integers(-1, 2)),
        noise_seed=int(rng.integers(2**31)),
    )


def _other(rng: np.random.Generator, far: float) -> Box:
    paint = rng.uniform(0, 255, size=3)
    paint[int(rng.integers(3))] = rng.uniform(200, 255)
    return Box(
        kind=0,
        x=far,
        y=float(rng.uniform(-0.2, 0.2) * far),
        length=1.0,
        width=float(rng.uniform(1.4, 2.0)),
        height=float(rng.uniform(1.2, 1.8)),
        base=0.0,
        yaw=float(rng.uniform(-0.2, 0.2)),
        paint=(float(paint[0]), float(paint[1]), float(paint[2])),
    )


def poses(one: Event) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the car was at each step, `(T, 2)`, and where it looked, `(T,)`, seen from where it is now."""
    turned = one.turn * one.lapse
    yaw = np.append(-np.cumsum(turned[:0:-1])[::-1], 0.0)
    way = (one.speed * one.lapse)[1:, None] * np.stack([np.cos(yaw[1:]), np.sin(yaw[1:])], axis=1)
    return np.concatenate([-np.cumsum(way[::-1], axis=0)[::-1], np.zeros((1, 2))]), yaw


def bearings(one: Event) -> Floats:
    """Where the other was at each step, seen from the car: angle to the left in rad, and log of metres, `(T, 2)`."""
    where, yaw = poses(one)
    away = np.stack([np.full(len(yaw), one.other.x), one.other.y - one.crossing * _ago(one)], axis=1) - where
    angle = np.arctan2(away[:, 1], away[:, 0]) - yaw
    return np.stack([angle, np.log(np.hypot(away[:, 0], away[:, 1]))], axis=1).astype(np.float32)


def _ago(one: Event) -> NDArray[np.float64]:
    return np.append(np.cumsum(one.lapse[:0:-1])[::-1], 0.0)


def to_sample(one: Event) -> Sample:
    """Turn an event into arrays, see `samples`."""
    rng = np.random.default_rng(one.noise_seed)
    steps = len(one.speed)
    read = np.stack([one.speed, one.turn, one.lapse], axis=1) * rng.normal(1, 0.02, size=(steps, len(READINGS)))
    frame_mask = (rng.random(steps) >= _DROPPED).astype(np.int64)
    sensor_mask = (rng.random(read.shape) >= _DROPPED).astype(np.int64)
    arrival, motion = one.labels
    return {
        "frames": _frames(one, rng) * frame_mask[:, None, None, None].astype(np.float32),
        "frame_mask": frame_mask,
        "sensors": read.astype(np.float32) / _SCALES * sensor_mask.astype(np.float32),
        "sensor_mask": sensor_mask,
        "label.arrival": np.array(arrival, dtype=np.int64),
        "label.motion": np.array(motion, dtype=np.int64),
    }


def _frames(one: Event, rng: np.random.Generator) -> Floats:
    where, yaw = poses(one)
    ago = _ago(one)
    box, frames = one.other, []
    for step in range(len(yaw)):
        camera = Camera(
            x=float(where[step, 0]),
            y=float(where[step, 1]),
            z=1.3,
            yaw=float(yaw[step]),
            pitch=0.06,
            focal=_FOCAL,
            rows=SIZE,
            columns=SIZE,
        )
        then = Box(
            kind=box.kind,
            x=box.x,
            y=box.y - one.crossing * float(ago[step]),
            length=box.length,
            width=box.width,
            height=box.height,
            base=box.base,
            yaw=box.yaw,
            paint=box.paint,
        )
        frames.append(picture(camera, camera.look([then]), [then], rng, noise=8.0))
    return normalise(np.stack(frames))


def without_frames(sample: Sample) -> Sample:
    """Take all pictures away: zeros under a mask of 0 are left."""
    return sample | {name: np.zeros_like(sample[name]) for name in ("frames", "frame_mask")}


def without_sensors(sample: Sample) -> Sample:
    """Take all readings away: zeros under a mask of 0 are left."""
    return sample | {name: np.zeros_like(sample[name]) for name in ("sensors", "sensor_mask")}


def padded(sample: Sample, steps: int = STEPS_MAX) -> Sample:
    """Put empty steps in front, so that now stays the last one: zeros under masks of 0."""
    extra = steps - len(sample["frame_mask"])
    names = ("frames", "frame_mask", "sensors", "sensor_mask")
    return sample | {n: np.pad(sample[n], [(extra, 0), *[(0, 0)] * (sample[n].ndim - 1)]) for n in names}


def samples(split: str = "calibration", count: int = 256, seed: int = DATA_SEED) -> Iterator[Sample]:
    """Yield the first `count` events of a split as samples without a batch axis.

    `frames` (T, 3, 32, 32) float32 and `frame_mask` (T,) int64; `sensors` (T, 3) float32, scaled to about 1, and
    `sensor_mask` (T, 3) int64; 4 <= T <= 12, the last step is now; what dropped out is 0 under a mask of 0.
    `label.arrival` and `label.motion` () int64. In the calibration split one in eight is padded to 12 steps, one in
    sixteen has no pictures and one in sixteen no readings.
    """
    for index in range(count):
        sample = to_sample(event(event_rng(split, seed, index)))
        if split == "calibration":
            sample = _thinned(sample, index)
        yield sample


def _thinned(sample: Sample, index: int) -> Sample:
    if index % 8 == 6:
        return padded(sample)
    if index % 16 == 3:
        return without_frames(sample)
    return without_sensors(sample) if index % 16 == 11 else sample


def training_batch(seed: int, step: int, size: BatchSize) -> Batch:
    """Make the batch of one step, `size.scenes` events, keys as in `samples`; one in ten lacks frames or readings."""
    rng = event_rng("train", seed, step)
    return collate([_robbed(to_sample(event(rng)), float(rng.random())) for _ in range(size.scenes)])


def frame_batch(seed: int, step: int, size: BatchSize) -> Batch:
    """Make a batch of single frames of `size.scenes` drives, see `single_frames`."""
    rng = event_rng("frames", seed, step)
    return single_frames([event(rng) for _ in range(size.scenes)])


def single_frames(drives: list[Event]) -> Batch:
    """Take each drive's first and last frame, but for those that don't show the other's middle.

    `frames` (N, 3, 32, 32) and `bearings` (N, 2) float32.
    """
    ends = [(_frames(one, np.random.default_rng(one.noise_seed))[[0, -1]], bearings(one)[[0, -1]]) for one in drives]
    frames, told = (np.concatenate(part) for part in zip(*ends, strict=True))
    shown = np.abs(np.tan(told[:, 0])) * _FOCAL < SIZE / 2
    return {"frames": frames[shown], "bearings": told[shown]}


def _robbed(sample: Sample, draw: float) -> Sample:
    if draw < 0.05:
        return without_frames(sample)
    return without_sensors(sample) if draw < 0.1 else sample


def collate(drawn: list[Sample]) -> Batch:
    """Stack samples, padded in front to the longest."""
    longest = max(len(sample["frame_mask"]) for sample in drawn)
    rows = [padded(sample, longest) for sample in drawn]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def description() -> dict[str, Any]:
    """What the card says of the data."""
    return {
        "drive": f"{STEPS_MIN} to {STEPS_MAX} steps, {_LAPSE_S[0]} to {_LAPSE_S[1]} s apart, towards another thing "
        f"{_FAR_M[0]:.0f} to {_FAR_M[1]:.0f} m away",
        "frames": f"{SIZE}x{SIZE} RGB",
        "readings": READINGS,
        "arrival": f"classes parted at {', '.join(map(str, EDGES_S))} s",
        "motion": MOTIONS,
        "dropped": f"{_DROPPED:.0%} of the frames, {_DROPPED:.0%} of the readings",
        "splits": SPLITS,
        "seed": DATA_SEED,
    }
