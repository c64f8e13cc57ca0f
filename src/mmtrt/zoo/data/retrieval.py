"""Pictures and captions that tell all of their things, in any order: what a search by text looks for. numpy only.

Two scenes with the same things have the same captions: they share an identity, and either is a right find.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mmtrt.zoo.data.batches import Batch, BatchSize
from mmtrt.zoo.data.collating import collate, padded
from mmtrt.zoo.data.events import DATA_SEED, Sample, event_rng
from mmtrt.zoo.data.scenes import COLOURS, MAX_THINGS, SHAPES, SIZES, Scene, normalise, render, sample_scene
from mmtrt.zoo.data.words import IGNORED, TEXT_MAX, TEXT_MIN, encode_question

LENGTHS: Final = {"ids": TEXT_MAX, "mask": TEXT_MAX}
_PADDED_EVERY: Final = 8
_MISSING_EVERY: Final = 16
_ROOMY: Final = 3
"""So many things leave room for more words than their attributes: 16 tokens hold five things and no more."""


def describe(scene: Scene, rng: np.random.Generator) -> tuple[str, ...]:
    """Words of a caption: size, colour and shape of each thing, in random order, in one of three wordings."""
    things = [scene.things[int(i)] for i in rng.permutation(len(scene.things))]
    wording = int(rng.integers(3)) if len(things) <= _ROOMY else 0
    caption = ["picture", "of"] if wording == 2 else []
    for thing in things:
        caption += ["a"] if wording else []
        caption += [SIZES[thing.size], COLOURS[thing.colour], SHAPES[thing.shape]]
    return tuple(caption)


def identity(scene: Scene) -> int:
    """Number of what a caption can tell: equal for scenes with the same things, whatever their places and order."""
    kinds = sorted(1 + (t.size * len(COLOURS) + t.colour) * len(SHAPES) + t.shape for t in scene.things)
    base = 1 + len(SIZES) * len(COLOURS) * len(SHAPES)
    return sum(kind * base**place for place, kind in enumerate(kinds[:MAX_THINGS]))


def draw(rng: np.random.Generator) -> Sample:
    """One picture with its caption, see `samples`."""
    scene = sample_scene(rng)
    ids = encode_question(describe(scene, rng))
    return {
        "image": normalise(render(scene)),
        "ids": ids,
        "mask": np.ones_like(ids),
        "label.embeddings": np.full(2, identity(scene), dtype=np.int64),
    }


def samples(split: str = "calibration", count: int = 256, seed: int = DATA_SEED) -> Iterator[Sample]:
    """Yield the first `count` pairs of a split as samples without a batch axis.

    `image` (3, 64, 64) float32; `ids` and `mask` (t,) int64, 7 <= t <= 16; `label.embeddings` (2,) int64, the
    identity of what the picture and the caption show. In the calibration split, one in eight captions is padded, one
    pair in sixteen has no text (4 pads, mask 0), and one in sixteen no picture (all 0): the label of that side is -1.
    """
    for index in range(count):
        sample = draw(event_rng(split, seed, index))
        yield _varied(sample, index) if split == "calibration" else sample


def training_batch(seed: int, step: int, size: BatchSize) -> Batch:
    """Make the batch of one step: `size.scenes` pairs, captions padded to 16 words."""
    rng = event_rng("train", seed, step)
    return collate([draw(rng) for _ in range(size.scenes)], LENGTHS)


def without_text(sample: Sample) -> Sample:
    """Take the caption away: TEXT_MIN pads under a mask of 0 are left."""
    blank = np.zeros(TEXT_MIN, dtype=np.int64)
    return sample | {"ids": blank, "mask": blank.copy(), "label.embeddings": _unknown(sample, 1)}


def without_image(sample: Sample) -> Sample:
    """Take the picture away: zeros are left."""
    return sample | {"image": np.zeros_like(sample["image"]), "label.embeddings": _unknown(sample, 0)}


def _unknown(sample: Sample, side: int) -> NDArray[np.int64]:
    labels = sample["label.embeddings"].astype(np.int64)
    labels[side] = IGNORED
    return labels


def _varied(sample: Sample, index: int) -> Sample:
    if index % _MISSING_EVERY == _MISSING_EVERY - 3:
        return without_text(sample)
    if index % _MISSING_EVERY == _MISSING_EVERY - 5:
        return without_image(sample)
    return padded(sample, LENGTHS) if index % _PADDED_EVERY == _PADDED_EVERY - 2 else sample
