"""Events for bird's-eye-view detection: four cameras and a lidar around a car, things on the ground. Needs numpy only.

Neither sensor tells all. A walker and a bin return the same points: only cameras see which it is. How far a thing is
cameras see poorly, since each stands a little higher or lower than the car; the lidar tells, but dark things return
nothing. The cameras' calibration differs from event to event, as it does from car to car, and is an input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mmtrt.zoo.data.batches import Batch, BatchSize
from mmtrt.zoo.data.world import NOTHING, Box, Camera, Floats, Hits, cast, normalise, picture

SPLITS: Final = {"train": 211, "validation": 223, "calibration": 227, "test": 229}
"""Split -> first word of its seed sequences."""

DATA_SEED: Final = 2026
KINDS: Final = ("vehicle", "walker", "bin")
CAMERAS: Final = 4
ROWS: Final = 32
COLUMNS: Final = 64
GRID: Final = 32
CELL_M: Final = 0.5
REACH_M: Final = GRID * CELL_M / 2
"""The grid is a square around the car that reaches so far in each direction."""

PILLAR_POINTS: Final = 8
FEATURES: Final = 6
PILLARS_MIN: Final = 8
PILLARS_MAX: Final = 96
THINGS_MAX: Final = 6
IGNORED: Final = -1.0

_DARK_SHARE: Final = 0.2
_GROUND_KEPT: Final = 0.04
_RANGE_NOISE_M: Final = 0.03
_LIDAR: Final = (0.0, 0.0, 1.7)
_BASE_M: Final = (-0.3, 0.5)
_SEEN_PIXELS: Final = 6
_SEEN_POINTS: Final = 3
_PLACEMENTS: Final = 60
_SIZES: Final = (((1.7, 2.3), (0.9, 1.2), (0.9, 1.3)), *(((0.45, 0.65), (0.45, 0.65), (0.9, 1.3)),) * 2)
"""Length, width and height of each kind, smallest and largest; a walker and a bin are the same size."""
_PAINTS: Final = (
    ((215, 215, 215), (45, 45, 50), (200, 45, 45), (50, 80, 190), (190, 180, 60)),
    ((205, 55, 50), (215, 130, 50)),
    ((45, 85, 205), (45, 160, 95)),
)

Sample = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Things, which of them are dark to the lidar, the cameras, and the seed of all noise."""

    boxes: tuple[Box, ...]
    dark: tuple[bool, ...]
    cameras: tuple[Camera, ...]
    noise_seed: int


def event_rng(split: str, seed: int, index: int) -> np.random.Generator:
    """Make the random stream of one event; KeyError for an unknown split."""
    return np.random.default_rng((SPLITS[split], seed, index))


def event(rng: np.random.Generator) -> Event:
    """Draw things that stand apart from each other and from the car, and the cameras of one car."""
    wanted = int(rng.integers(2, THINGS_MAX + 1))
    boxes: list[Box] = []
    for _ in range(_PLACEMENTS):
        one = _thing(rng)
        if all(np.hypot(one.x - b.x, one.y - b.y) > one.radius + b.radius + 0.6 for b in boxes):
            boxes.append(one)
        if len(boxes) == wanted:
            break
    return Event(
        boxes=tuple(boxes),
        dark=tuple(bool(d) for d in rng.random(len(boxes)) < _DARK_SHARE),
        cameras=tuple(_camera(rng, turn) for turn in range(CAMERAS)),
        noise_seed=int(rng.integers(2**31)),
    )


def _thing(rng: np.random.Generator) -> Box:
    kind = int(rng.integers(len(KINDS)))
    length, width, height = (float(rng.uniform(*span)) for span in _SIZES[kind])
    while True:
        x, y = (float(v) for v in rng.uniform(-REACH_M + 0.4, REACH_M - 0.4, size=2))
        if np.hypot(x, y) > 2.2:
            break
    colour = np.array(_PAINTS[kind][int(rng.integers(len(_PAINTS[kind])))]) + rng.uniform(-15, 15, size=3)
    paint = (float(colour[0]), float(colour[1]), float(colour[2]))
    base, yaw = float(rng.uniform(*_BASE_M)), float(rng.uniform(0, np.pi))
    return Box(kind=kind, x=x, y=y, length=length, width=width, height=height, base=base, yaw=yaw, paint=paint)


def _camera(rng: np.random.Generator, turn: int) -> Camera:
    """Camera `turn` looks ahead, left, back or right; mounting and focal length vary from car to car."""
    yaw = turn * np.pi / 2 + rng.uniform(-0.08, 0.08)
    return Camera(
        x=float(0.5 * np.cos(yaw) + rng.uniform(-0.1, 0.1)),
        y=float(0.5 * np.sin(yaw) + rng.uniform(-0.1, 0.1)),
        z=float(rng.uniform(1.4, 1.6)),
        yaw=float(yaw),
        pitch=float(0.22 + rng.uniform(-0.04, 0.04)),
        focal=float(rng.uniform(26, 30)),
        rows=ROWS,
        columns=COLUMNS,
    )


def _lidar_rays() -> Floats:
    down = np.deg2rad(np.linspace(3, 33, 12))
    around = np.linspace(0, 2 * np.pi, 144, endpoint=False)
    tilt, turn = (a.ravel() for a in np.meshgrid(down, around, indexing="ij"))
    rays = np.stack([np.cos(tilt) * np.cos(turn), np.cos(tilt) * np.sin(turn), -np.sin(tilt)], axis=1)
    return rays.astype(np.float32)


_RAYS: Final = _lidar_rays()


def point_cloud(one: Event, hits: Hits, rng: np.random.Generator) -> Floats:
    """Points `(n, 4)` of one turn of the lidar: x, y, z and how brightly they came back; dark things give none."""
    ground = (hits.box == NOTHING) & np.isfinite(hits.far) & (rng.random(len(_RAYS)) < _GROUND_KEPT)
    lit = ~np.array([*one.dark, True])[hits.box]  # NOTHING is the last: no thing
    kept = ground | (lit & (rng.random(len(_RAYS)) < 0.9))
    far = hits.far[kept] + np.float32(_RANGE_NOISE_M) * rng.standard_normal(int(kept.sum()), dtype=np.float32)
    points = np.array(_LIDAR, dtype=np.float32) + _RAYS[kept] * far[:, None]
    back = np.clip(_brightness(hits, kept) + rng.normal(0, 0.1, len(points)), 0, 1)
    cloud = np.concatenate([points, back[:, None]], axis=1).astype(np.float32)
    return np.asarray(cloud[(np.abs(cloud[:, :2]) < REACH_M - 1e-3).all(axis=1)])


def _brightness(hits: Hits, kept: NDArray[np.bool_]) -> NDArray[np.float64]:
    """What comes back: less from the ground and from afar; nothing of the colour."""
    return np.where(hits.box[kept] == NOTHING, 0.2, 0.6) * np.exp(-hits.far[kept] / 20)


def pillars(cloud: Floats, rng: np.random.Generator, most: int = PILLARS_MAX) -> Sample:
    """Sort points `(n, 4)` into the cells where they are: `pillars` (P, 8, 6), `cells` and `pillar_mask` (P,) int64.

    A point's features are x, y, z, brightness, and its place within the cell. A pillar of fewer than 8 points repeats
    them, so that a maximum over the points needs no mask. P is a multiple of PILLARS_MIN, at most `most`: beyond, the
    cells with the highest points stay. Rows without points are zeros under a mask of 0.
    """
    place = (cloud[:, :2] + np.float32(REACH_M)) / np.float32(CELL_M)
    where = place.astype(np.int64)
    within = place - where - np.float32(0.5)
    features = np.concatenate([cloud, within], axis=1)
    cells, owner = np.unique(where[:, 0] * GRID + where[:, 1], return_inverse=True)
    highest = np.full(len(cells), -np.inf)
    np.maximum.at(highest, owner, cloud[:, 2])
    kept = np.sort(np.argsort(-highest, kind="stable")[:most])
    rows = PILLARS_MIN * max(1, -(-len(kept) // PILLARS_MIN))
    filled = np.zeros((rows, PILLAR_POINTS, FEATURES), dtype=np.float32)
    for row, cell in enumerate(kept):
        mine = rng.permutation(np.flatnonzero(owner == cell))
        filled[row] = features[np.resize(mine, PILLAR_POINTS)]
    empty = rows - len(kept)
    mask = np.pad(np.ones(len(kept), dtype=np.int64), (0, empty))
    return {"pillars": filled, "cells": np.pad(cells[kept], (0, empty)).astype(np.int64), "pillar_mask": mask}


def labels(one: Event, seen: NDArray[np.bool_]) -> Floats:
    """Kind, row and column of each thing that a sensor sees, `(6, 3)`; rows of IGNORED where there are fewer.

    Rows and columns are in cells; whole numbers are the centres of cells.
    """
    told = np.full((THINGS_MAX, 3), IGNORED, dtype=np.float32)
    mine = [box for box, shows in zip(one.boxes, seen, strict=True) if shows]
    for row, box in enumerate(mine):
        told[row] = (box.kind, (box.x + REACH_M) / CELL_M - 0.5, (box.y + REACH_M) / CELL_M - 0.5)
    return told


def visible(one: Event, views: Sequence[Hits], turn: Hits) -> NDArray[np.bool_]:
    """Which things show enough of themselves to the cameras, or to the lidar where they are not dark, `(n,)`."""
    pixels = sum(_counts(view, len(one.boxes)) for view in views)
    points = _counts(turn, len(one.boxes))
    return np.asarray((pixels >= _SEEN_PIXELS) | ((points >= _SEEN_POINTS) & ~np.array(one.dark)))


def _counts(hits: Hits, boxes: int) -> NDArray[np.int64]:
    return np.bincount(hits.box[hits.box != NOTHING], minlength=boxes)


def to_sample(one: Event) -> Sample:
    """Turn an event into arrays, see `samples`."""
    rng = np.random.default_rng(one.noise_seed)
    views, turn = [camera.look(one.boxes) for camera in one.cameras], cast(_LIDAR, _RAYS, one.boxes)
    images = [picture(c, v, one.boxes, rng, noise=8.0) for c, v in zip(one.cameras, views, strict=True)]
    return {
        "images": normalise(np.stack(images)),
        "projection": np.stack([camera.projection() for camera in one.cameras]),
        **pillars(point_cloud(one, turn, rng), rng),
        "label.heatmap": labels(one, visible(one, views, turn)),
    }


def without_camera(sample: Sample, camera: int) -> Sample:
    """Take one camera's picture away: zeros are left."""
    images = sample["images"].copy()
    images[camera] = 0
    return sample | {"images": images}


def without_cameras(sample: Sample) -> Sample:
    """Take all pictures away: zeros are left."""
    return sample | {"images": np.zeros_like(sample["images"])}


def without_lidar(sample: Sample) -> Sample:
    """Take all points away: PILLARS_MIN empty pillars under a mask of 0 are left."""
    return sample | pillars(np.zeros((0, 4), dtype=np.float32), np.random.default_rng(0))


def samples(split: str = "calibration", count: int = 256, seed: int = DATA_SEED) -> Iterator[Sample]:
    """Yield the first `count` events of a split as samples without a batch axis.

    `images` (4, 3, 32, 64) and `projection` (4, 3, 4) float32: ahead, left, back, right; `pillars` (P, 8, 6) float32,
    `cells` and `pillar_mask` (P,) int64, 8 <= P <= 96; `label.heatmap` (6, 3) float32, see `labels`.
    In the calibration split one in eight lacks a camera, one in sixteen all of them, and one in sixteen the lidar.
    """
    for index in range(count):
        sample = to_sample(event(event_rng(split, seed, index)))
        if split == "calibration":
            sample = _thinned(sample, index)
        yield sample


def _thinned(sample: Sample, index: int) -> Sample:
    if index % 8 == 6:
        return without_camera(sample, index // 8 % CAMERAS)
    if index % 16 == 3:
        return without_cameras(sample)
    return without_lidar(sample) if index % 16 == 11 else sample


def training_batch(seed: int, step: int, size: BatchSize) -> Batch:
    """Make the batch of one step, `size.scenes` events: keys as in `samples`; one in five lacks something."""
    rng = event_rng("train", seed, step)
    return collate([_robbed(to_sample(event(rng)), float(rng.random())) for _ in range(size.scenes)])


def _robbed(sample: Sample, draw: float) -> Sample:
    if draw < 0.06:
        return without_cameras(sample)
    if draw < 0.12:
        return without_lidar(sample)
    return without_camera(sample, int(draw * 1000) % CAMERAS) if draw < 0.2 else sample


def collate(drawn: list[Sample]) -> Batch:
    """Stack samples; pillars are padded, under a mask of 0, to the most that one has."""
    most = max(len(sample["cells"]) for sample in drawn)
    rows = [padded(sample, most) for sample in drawn]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def padded(sample: Sample, rows: int) -> Sample:
    """Pad the pillars to so many rows, mask 0 at the tail."""
    extra = rows - len(sample["cells"])
    names = ("pillars", "cells", "pillar_mask")
    return sample | {n: np.pad(sample[n], [(0, extra), *[(0, 0)] * (sample[n].ndim - 1)]) for n in names}


def description() -> dict[str, Any]:
    """What the card says of the data."""
    return {
        "things": f"2 to {THINGS_MAX} of {', '.join(KINDS)}, on ground {-_BASE_M[0]} m lower to {_BASE_M[1]} m higher; "
        "walkers and bins differ in colour alone",
        "grid": f"{GRID} x {GRID} cells of {CELL_M} m around the car",
        "cameras": f"{CAMERAS} of {ROWS}x{COLUMNS} RGB, mounted a little differently in each event",
        "lidar": f"12 rings of 144 rays, sorted into at most {PILLARS_MAX} pillars of {PILLAR_POINTS} points; "
        f"{_DARK_SHARE:.0%} of the things return none",
        "labelled": f"what shows {_SEEN_PIXELS} pixels or {_SEEN_POINTS} points",
        "splits": SPLITS,
        "seed": DATA_SEED,
    }
