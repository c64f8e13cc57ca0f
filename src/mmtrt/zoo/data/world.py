"""A small world around a car: boxes over flat ground, which cameras and a lidar see by casting rays. Needs numpy only.

Metres and radians; x points ahead, y to the left, z up; the ground is z = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

NOTHING: Final = -1
"""What a ray hits that hits no box: ground or sky."""

_FACES: Final = np.array([0.75, 1.0, 1.25], dtype=np.float32)
"""How bright a box's faces are: those across x, across y, and the top."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A thing: its centre from above, length along `yaw`, width, height, the base it stands on, and paint in 0..255."""

    kind: int
    x: float
    y: float
    length: float
    width: float
    height: float
    base: float
    yaw: float
    paint: tuple[float, float, float]

    @property
    def radius(self) -> float:
        """Of the circle around it, as seen from above."""
        return float(np.hypot(self.length, self.width)) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """A pinhole camera: where it stands, where it looks, and its focal length in pixels."""

    x: float
    y: float
    z: float
    yaw: float
    pitch: float
    focal: float
    rows: int
    columns: int

    def axes(self) -> Floats:
        """Rows: the camera's right, down and forward in the world, `(3, 3)`; `pitch` > 0 looks down."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        cp, sp = np.cos(self.pitch), np.sin(self.pitch)
        return np.array([[s, -c, 0], [-sp * c, -sp * s, -cp], [cp * c, cp * s, -sp]], dtype=np.float32)

    def projection(self) -> Floats:
        """Matrix `(3, 4)` from `(x, y, z, 1)` to `(column * depth, row * depth, depth)`, in pixels from the corner."""
        f = self.focal
        inner = np.array([[f, 0, self.columns / 2], [0, f, self.rows / 2], [0, 0, 1]], dtype=np.float32)
        axes = self.axes()
        where = np.array([self.x, self.y, self.z], dtype=np.float32)
        return np.asarray(inner @ np.concatenate([axes, -(axes @ where)[:, None]], axis=1), dtype=np.float32)

    def look(self, boxes: Sequence[Box]) -> Hits:
        """What the rays of the pixels meet, row by row."""
        return cast((self.x, self.y, self.z), self.rays(), boxes)

    def rays(self) -> Floats:
        """Directions through the pixels' centres, row by row, `(rows * columns, 3)`, not normalised."""
        across = (np.arange(self.columns, dtype=np.float32) + 0.5 - self.columns / 2) / self.focal
        down = (np.arange(self.rows, dtype=np.float32) + 0.5 - self.rows / 2) / self.focal
        grid = np.stack([*np.broadcast_arrays(across[None, :], down[:, None]), np.ones((self.rows, self.columns))], -1)
        return np.asarray(grid.reshape(-1, 3) @ self.axes(), dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hits:
    """What rays met first: how far in units of the direction, which box (NOTHING is none), and how bright its face."""

    far: Floats
    box: NDArray[np.int64]
    bright: Floats


def cast(origin: Sequence[float], rays: Floats, boxes: Sequence[Box]) -> Hits:
    """Follow rays `(R, 3)` from one origin; those that meet neither box nor ground are infinitely far."""
    with np.errstate(divide="ignore"):
        ground = np.where(rays[:, 2] < 0, -np.float32(origin[2]) / rays[:, 2], np.float32(np.inf))
    far = ground.astype(np.float32)
    box = np.full(len(rays), NOTHING, dtype=np.int64)
    bright = np.ones(len(rays), dtype=np.float32)
    for index, one in enumerate(boxes):
        entry, face = _enter(origin, rays, one)
        nearer = entry < far
        far[nearer], box[nearer], bright[nearer] = entry[nearer], index, _FACES[face[nearer]]
    return Hits(far=far, box=box, bright=bright)


def _enter(origin: Sequence[float], rays: Floats, box: Box) -> tuple[Floats, NDArray[np.int64]]:
    """Distance `(R,)` at which each ray enters a box (infinite where it misses) and the axis of the face it enters."""
    c, s = np.float32(np.cos(box.yaw)), np.float32(np.sin(box.yaw))
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=np.float32)
    start = (
        np.array([origin[0] - box.x, origin[1] - box.y, origin[2] - box.base - box.height / 2], dtype=np.float32) @ turn
    )
    half = np.array([box.length, box.width, box.height], dtype=np.float32) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = 1 / (turn.T @ rays.T)
        one, two = (-half - start)[:, None] * inverse, (half - start)[:, None] * inverse
    (x, y, z), (a, b, c) = np.fmin(one, two), np.fmax(one, two)
    entry, leave = np.maximum(np.maximum(x, y), z), np.minimum(np.minimum(a, b), c)
    hit = (entry < leave) & (entry > 0)
    return np.where(hit, entry, np.float32(np.inf)), np.where(x == entry, 0, np.where(y == entry, 1, 2))


def picture(
    camera: Camera, hits: Hits, boxes: Sequence[Box], rng: np.random.Generator, noise: float
) -> NDArray[np.uint8]:
    """Paint what a camera's rays met, `(3, rows, columns)` uint8 RGB: grey ground, pale sky, shaded boxes, noise."""
    ground = np.float32(rng.uniform(80, 120))
    shade = np.where(np.isfinite(hits.far), ground, np.float32(rng.uniform(150, 190)))
    colours = np.repeat(shade[:, None], 3, axis=1)
    met = hits.box != NOTHING
    paints = np.array([box.paint for box in boxes], dtype=np.float32).reshape(-1, 3)
    colours[met] = paints[hits.box[met]] * hits.bright[met, None]
    colours += np.float32(noise) * rng.standard_normal(colours.shape, dtype=np.float32)
    pixels = np.clip(np.rint(colours), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels.reshape(camera.rows, camera.columns, 3).transpose(2, 0, 1))


def normalise(pixels: NDArray[np.uint8]) -> Floats:
    """8-bit pixels to a model's float32 input: `(pixel / 255 - 0.45) / 0.25`."""
    return np.asarray((pixels.astype(np.float32) / np.float32(255) - np.float32(0.45)) / np.float32(0.25))
