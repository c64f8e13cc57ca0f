"""Scenes of simple objects: sampled from a seed, rendered to 64x64 RGB. Needs numpy only.

A scene holds 2 to 5 things. Each has a size, a colour and a shape, and may be partly hidden by later ones of
other colours, but keeps at least MIN_VISIBLE of its pixels. A scene draws its colours and shapes from a small
palette of its own, so that several things share an attribute and counting or referring needs a look.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

IMAGE_SIZE: Final = 64
SIZES: Final = ("small", "large")
COLOURS: Final = ("red", "green", "blue", "yellow", "purple", "cyan", "white")
SHAPES: Final = ("circle", "square", "triangle", "cross")
MIN_THINGS: Final = 2
MAX_THINGS: Final = 5
MIN_VISIBLE: Final = 0.7

PREPROCESSING: Final[dict[str, Any]] = {
    "size": [IMAGE_SIZE, IMAGE_SIZE],
    "layout": "CHW",
    "channels": "RGB",
    "scale": 255.0,
    "mean": [0.40, 0.40, 0.40],
    "std": [0.25, 0.25, 0.25],
}
"""How 8-bit pixels become the model's input: `(pixel / scale - mean) / std`, channel by channel."""

_RGB: Final = np.array(
    [
        *((220, 40, 40), (40, 165, 55), (45, 75, 225), (235, 210, 45)),
        *((150, 45, 175), (60, 205, 215), (240, 240, 240)),
    ],
    dtype=np.float32,
)
_RADIUS: Final = ((4.5, 5.5), (8.5, 10.0))
_COLOUR_JITTER: Final = 10.0
_PIXEL_NOISE: Final = 8.0
_PLACEMENTS: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One object: indices into SIZES, COLOURS and SHAPES; centre and radius in pixels, y grows downwards."""

    size: int
    colour: int
    shape: int
    x: float
    y: float
    radius: float

    @property
    def attributes(self) -> tuple[int, int, int]:
        """Size, colour and shape."""
        return (self.size, self.colour, self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Things in drawing order (later ones cover earlier ones), and the seed of ground, jitter and noise."""

    things: tuple[Thing, ...]
    paint_seed: int

    def digest(self) -> str:
        """SHA-256 of everything that decides the picture: equal digests are equal pictures."""
        text = repr((self.paint_seed, [(t.attributes, t.x, t.y, t.radius) for t in self.things]))
        return hashlib.sha256(text.encode()).hexdigest()


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene; each thing keeps at least MIN_VISIBLE of its pixels."""
    while True:
        count = int(rng.integers(MIN_THINGS, MAX_THINGS + 1))
        colours = rng.permutation(len(COLOURS))[: int(rng.integers(2, 5))]
        shapes = rng.permutation(len(SHAPES))[: int(rng.integers(1, len(SHAPES) + 1))]
        things: list[Thing] = []
        for _ in range(_PLACEMENTS):
            candidate = _sample_thing(rng, colours, shapes)
            if _fits(candidate, things):
                things.append(candidate)
            if len(things) == count:
                return Scene(things=tuple(things), paint_seed=int(rng.integers(2**31)))


def _sample_thing(rng: np.random.Generator, colours: NDArray[np.int64], shapes: NDArray[np.int64]) -> Thing:
    size = int(rng.integers(len(SIZES)))
    radius = round(float(rng.uniform(*_RADIUS[size])), 3)
    x, y = (round(float(v), 3) for v in rng.uniform(radius + 0.5, IMAGE_SIZE - radius - 0.5, size=2))
    colour, shape = int(colours[rng.integers(len(colours))]), int(shapes[rng.integers(len(shapes))])
    return Thing(size=size, colour=colour, shape=shape, x=x, y=y, radius=radius)


def _fits(candidate: Thing, placed: list[Thing]) -> bool:
    """Whether the candidate, drawn last, leaves enough of the things below it."""
    for thing in placed:
        distance = float(np.hypot(thing.x - candidate.x, thing.y - candidate.y))
        touching = distance < thing.radius + candidate.radius + 2
        if touching and thing.colour == candidate.colour:
            return False
        if distance < max(thing.radius, candidate.radius):
            return False
    return min(visible_fractions((*placed, candidate))) >= MIN_VISIBLE


def visible_fractions(things: tuple[Thing, ...]) -> list[float]:
    """Share of each thing's pixels that no later thing covers, in drawing order."""
    masks = [coverage(t) > 0.5 for t in things]
    shares = []
    for i, mask in enumerate(masks):
        hidden = np.zeros_like(mask)
        for later in masks[i + 1 :]:
            hidden |= later
        shares.append(float((mask & ~hidden).sum() / mask.sum()))
    return shares


_AXIS: Final = np.arange(IMAGE_SIZE, dtype=np.float32) + 0.5


def coverage(thing: Thing) -> NDArray[np.float32]:
    """How much of each pixel a thing covers, `(64, 64)` in 0..1, with an edge one pixel soft."""
    dx = _AXIS[None, :] - np.float32(thing.x)
    dy = _AXIS[:, None] - np.float32(thing.y)
    return np.clip(0.5 - _signed_distance(SHAPES[thing.shape], dx, dy, thing.radius), 0, 1, dtype=np.float32)


def _signed_distance(
    shape: str, dx: NDArray[np.float32], dy: NDArray[np.float32], radius: float
) -> NDArray[np.float32]:
    """Distance to the outline in pixels, negative inside; `dx` is `(1, 64)`, `dy` is `(64, 1)`."""
    r = np.float32(radius)
    if shape == "circle":
        return np.asarray(np.sqrt(dx * dx + dy * dy) - r, dtype=np.float32)
    if shape == "square":
        return np.asarray(np.maximum(np.abs(dx), np.abs(dy)) - r * np.float32(0.88), dtype=np.float32)
    if shape == "triangle":  # pointing up: a flat base and two sides of slope 2
        side = (2 * np.abs(dx) - dy - r) / np.float32(np.sqrt(5))
        return np.asarray(np.maximum(side, dy - r * np.float32(0.9)), dtype=np.float32)
    arm = r * np.float32(0.36)
    bar = np.maximum(np.abs(dx) - r, np.abs(dy) - arm)
    post = np.maximum(np.abs(dx) - arm, np.abs(dy) - r)
    return np.asarray(np.minimum(bar, post), dtype=np.float32)


def render(scene: Scene) -> NDArray[np.uint8]:
    """Paint a scene, `(3, 64, 64)` uint8 RGB: shaded grey background, jittered colours, pixel noise."""
    rng = np.random.default_rng(scene.paint_seed)
    base = rng.uniform(60, 115) + rng.uniform(-12, 12, size=3)
    slope = rng.uniform(-12, 12, size=2) / IMAGE_SIZE
    shade = (_AXIS[None, :] - 32) * slope[0] + (_AXIS[:, None] - 32) * slope[1]
    canvas = (base[:, None, None] + shade).astype(np.float32)
    for thing in scene.things:
        paint = _RGB[thing.colour] + rng.uniform(-_COLOUR_JITTER, _COLOUR_JITTER, size=3).astype(np.float32)
        cover = coverage(thing)
        canvas += cover * (paint[:, None, None] - canvas)
    canvas += _PIXEL_NOISE * rng.standard_normal(canvas.shape, dtype=np.float32)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def normalise(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """8-bit pixels `(..., 3, 64, 64)` to the model's float32 input, by PREPROCESSING."""
    mean = np.array(PREPROCESSING["mean"], dtype=np.float32)[:, None, None]
    std = np.array(PREPROCESSING["std"], dtype=np.float32)[:, None, None]
    return np.asarray((pixels.astype(np.float32) / np.float32(255) - mean) / std, dtype=np.float32)
