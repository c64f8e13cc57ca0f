"""A shop: what somebody has bought, and a product on offer with its picture and its title. numpy only.

A customer has a taste, of one colour and a few departments, which shows in what is bought: the catalogue's items have
a colour and a department each. A product on offer is new, so it has no id: its colour is seen in the picture alone and
its department is read in the title alone. It is clicked where both are to the customer's taste.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mmtrt.zoo.data.batches import Batch, BatchSize
from mmtrt.zoo.data.collating import collate, padded
from mmtrt.zoo.data.events import DATA_SEED, Sample, event_rng
from mmtrt.zoo.data.scenes import COLOURS, IMAGE_SIZE, SHAPES, Scene, Thing, normalise, render

DEPARTMENTS: Final = (
    *("garden", "kitchen", "office", "sports", "music", "travel"),
    *("toys", "books", "shoes", "coats", "lamps", "tools"),
)
GOODS: Final = tuple(f"{department}-{piece}" for department in DEPARTMENTS for piece in ("a", "b", "c"))
"""What titles call goods: three names in each department, none of which says the department."""

FILLERS: Final = ("new", "classic", "light", "sturdy", "popular", "small", "large", "premium", "simple", "handmade")
WORDS: Final = ("<pad>", "<start>", *FILLERS, *GOODS)
ITEMS: Final = 1 + 4 * len(COLOURS) * len(DEPARTMENTS)
"""Item ids: 0 is padding, then four items of each colour and department, in an order that says nothing."""

HISTORY_MIN: Final = 1
HISTORY_MAX: Final = 20
TEXT_MIN: Final = 3
TEXT_MAX: Final = 8
LENGTHS: Final = {"ids": TEXT_MAX, "mask": TEXT_MAX, "history": HISTORY_MAX, "history_mask": HISTORY_MAX}
IGNORED: Final = -1

_SHORTEST: Final = 5
"""What somebody has bought at the least: fewer items don't show a taste."""

_TASTE: Final = (0.6, 0.25, 0.15)
"""How often a purchase is of the first, second and third department of a taste."""

_COLOUR_SHARE: Final = 0.65
"""How often a purchase is of the colour of the taste."""

_FLIPPED: Final = 0.03
"""So often a click is an accident, or is not made."""

_NEGATIVES: Final = (0.4, 0.4, 0.2)
"""What is not clicked has the wrong colour, the wrong department, or both wrong."""

_PADDED_EVERY: Final = 8
_MISSING_EVERY: Final = 16

_SHUFFLED: Final = 1 + np.random.default_rng(20260).permutation(ITEMS - 1).reshape(len(COLOURS), len(DEPARTMENTS), 4)
_WORD_IDS: Final = {word: i for i, word in enumerate(WORDS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Taste:
    """A colour, and three departments of which the first is bought from most."""

    colour: int
    departments: tuple[int, int, int]


def sample_taste(rng: np.random.Generator) -> Taste:
    """Draw a taste."""
    first, second, third = (int(d) for d in rng.permutation(len(DEPARTMENTS))[:3])
    return Taste(colour=int(rng.integers(len(COLOURS))), departments=(first, second, third))


def sample_history(taste: Taste, rng: np.random.Generator) -> NDArray[np.int64]:
    """Item ids `(h,)`, 5 <= h <= 20, of what somebody of this taste has bought."""
    length = int(rng.integers(_SHORTEST, HISTORY_MAX + 1))
    departments = rng.choice(taste.departments, size=length, p=_TASTE)
    own = rng.random(length) < _COLOUR_SHARE
    colours = np.where(own, taste.colour, rng.integers(len(COLOURS), size=length))
    return np.asarray(_SHUFFLED[colours, departments, rng.integers(4, size=length)], dtype=np.int64)


def sample_offer(taste: Taste, clicked: bool, rng: np.random.Generator) -> tuple[int, int]:  # noqa: FBT001
    """Colour and department of a product that somebody of this taste clicks, or does not."""
    wrong = -1 if clicked else int(rng.choice(3, p=_NEGATIVES))
    colour, department = taste.colour, taste.departments[int(rng.choice(2, p=(0.7, 0.3)))]
    if wrong in {0, 2}:
        colour = (colour + int(rng.integers(1, len(COLOURS)))) % len(COLOURS)
    if wrong in {1, 2}:
        others = [d for d in range(len(DEPARTMENTS)) if d not in taste.departments]
        department = others[int(rng.integers(len(others)))]
    return colour, department


def picture(colour: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """A product of this colour on a grey ground, `(3, 64, 64)`, normalised."""
    radius = float(rng.uniform(10, 24))
    x, y = rng.uniform(radius + 1, IMAGE_SIZE - radius - 1, size=2)
    shape = int(rng.integers(len(SHAPES)))
    thing = Thing(size=1, colour=colour, shape=shape, x=float(x), y=float(y), radius=radius)
    return normalise(render(Scene(things=(thing,), paint_seed=int(rng.integers(2**31)))))


def title(department: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Ids `(t,)`, 3 <= t <= 8: `<start>`, the name of the goods somewhere among words that say nothing."""
    fillers = rng.choice(FILLERS, size=int(rng.integers(1, TEXT_MAX - 1)), replace=False)
    words = [str(word) for word in fillers]
    words.insert(int(rng.integers(len(words) + 1)), GOODS[3 * department + int(rng.integers(3))])
    return np.array([_WORD_IDS["<start>"], *(_WORD_IDS[w] for w in words)], dtype=np.int64)


def draw(rng: np.random.Generator) -> Sample:
    """One customer and one product, see `samples`."""
    taste = sample_taste(rng)
    clicked = bool(rng.random() < 0.5)
    colour, department = sample_offer(taste, clicked, rng)
    ids, history = title(department, rng), sample_history(taste, rng)
    flipped = bool(rng.random() < _FLIPPED)
    return {
        "image": picture(colour, rng),
        "ids": ids,
        "mask": np.ones_like(ids),
        "history": history,
        "history_mask": np.ones_like(history),
        "label.click": np.array(clicked != flipped, dtype=np.int64),
        "label.department": np.array(rng.choice(taste.departments, p=_TASTE), dtype=np.int64),
    }


def samples(split: str = "calibration", count: int = 256, seed: int = DATA_SEED) -> Iterator[Sample]:
    """Yield the first `count` events of a split as samples without a batch axis.

    `image` (3, 64, 64) float32; `ids` and `mask` (t,) int64, 3 <= t <= 8; `history` and `history_mask` (h,) int64,
    5 <= h <= 20; `label.click` () int64, 0 or 1; `label.department` () int64, that of the next purchase. In the
    calibration split, one event in eight is padded to the longest, and in one of sixteen each, the title (3 pads,
    mask 0), the picture (all 0) or the history (1 pad, mask 0: somebody new) is missing; what can't be told then has
    no label (-1).
    """
    for index in range(count):
        sample = draw(event_rng(split, seed, index))
        yield _varied(sample, index) if split == "calibration" else sample


def training_batch(seed: int, step: int, size: BatchSize) -> Batch:
    """Make the batch of one step: `size.scenes` events, all padded to the longest."""
    rng = event_rng("train", seed, step)
    return collate([draw(rng) for _ in range(size.scenes)], LENGTHS)


def without_text(sample: Sample) -> Sample:
    """Take the title away: TEXT_MIN pads under a mask of 0 are left, and no click can be told."""
    return sample | {**_blank("ids", "mask", TEXT_MIN), "label.click": _unknown()}


def without_image(sample: Sample) -> Sample:
    """Take the picture away: zeros are left, and no click can be told."""
    return sample | {"image": np.zeros_like(sample["image"]), "label.click": _unknown()}


def without_history(sample: Sample) -> Sample:
    """Take the history away: somebody new, of whom nothing can be told."""
    blank = _blank("history", "history_mask", HISTORY_MIN)
    return sample | {**blank, "label.click": _unknown(), "label.department": _unknown()}


def _blank(ids: str, mask: str, length: int) -> dict[str, NDArray[np.int64]]:
    return {name: np.zeros(length, dtype=np.int64) for name in (ids, mask)}


def _unknown() -> NDArray[np.int64]:
    return np.array(IGNORED, dtype=np.int64)


_MISSING: Final = {3: without_text, 5: without_image, 7: without_history}


def _varied(sample: Sample, index: int) -> Sample:
    taken = _MISSING.get(_MISSING_EVERY - index % _MISSING_EVERY)
    if taken is not None:
        return taken(sample)
    return padded(sample, LENGTHS) if index % _PADDED_EVERY == _PADDED_EVERY - 2 else sample
