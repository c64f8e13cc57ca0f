"""Splits, and events: a scene with one question, as the model takes it. Needs numpy only.

The splits draw from seed sequences that begin with a different word each, so no two share a scene.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from mmtrt.zoo.data import words
from mmtrt.zoo.data.questions import KINDS, PRESUPPOSING, Question, ask, ask_unmatched
from mmtrt.zoo.data.scenes import Scene, normalise, render, sample_scene

SPLITS: Final = {"pictures": 7, "train": 11, "validation": 23, "calibration": 37, "test": 53}
"""Split -> first word of its seed sequences; "pictures" is what the image encoder learns from beforehand."""

DATA_SEED: Final = 2026
UNMATCHED_EVERY: Final = 5
"""Of five events of validation, calibration and test, the last is unmatched: 5,000 hold 4,000 answers."""

PADDED_EVERY: Final = 8
MISSING_EVERY: Final = 16
_ASK_LIMIT: Final = 12

Asked = TypeVar("Asked")
Sample = dict[str, NDArray[np.float32] | NDArray[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One scene and one question about it."""

    scene: Scene
    question: Question


def event_rng(split: str, seed: int, index: int, *family: int) -> np.random.Generator:
    """Make the random stream of one event, of a family of models where one is told; KeyError for an unknown split."""
    return np.random.default_rng((SPLITS[split], seed, index, *family))


def event(split: str, index: int, seed: int = DATA_SEED) -> Event:
    """Event `index` of a split: kinds take turns, and scenes are drawn until one can be asked the target."""
    rng = event_rng(split, seed, index)
    turn = index // UNMATCHED_EVERY
    if index % UNMATCHED_EVERY == UNMATCHED_EVERY - 1:
        kind, asker = PRESUPPOSING[turn % len(PRESUPPOSING)], ask_unmatched
    else:
        kind, asker = KINDS[(index - turn) % len(KINDS)], ask
    target = int(rng.integers(2**31))

    def asked(scene: Scene) -> Event | None:
        question = asker(scene, kind, target, rng)
        return None if question is None else Event(scene=scene, question=question)

    return first_asked(rng, asked)


def first_asked(rng: np.random.Generator, asked: Callable[[Scene], Asked | None]) -> Asked:
    """Draw scenes until one can be asked; each is tried several times, since what is asked is drawn anew."""
    while True:
        scene = sample_scene(rng)
        for _ in range(_ASK_LIMIT):
            found = asked(scene)
            if found is not None:
                return found


def samples(split: str = "calibration", count: int = 256, seed: int = DATA_SEED) -> Iterator[Sample]:
    """Yield the first `count` events of a split as samples without a batch axis.

    `image` (3, 64, 64) float32; `ids` and `mask` (t,) int64, 4 <= t <= 16, of the question's own length;
    labels (IGNORED where there is none): `label.answer` (), `label.match` (), `label.generate` (5,) int64.
    One in five is an unmatched pair. In the calibration split, one in eight is padded to 16 words (mask 0 at
    the tail), and one in sixteen has no text at all (4 pads, mask 0, no labels).
    """
    for index in range(count):
        sample = to_sample(event(split, index, seed))
        if split == "calibration" and index % MISSING_EVERY == MISSING_EVERY - 3:
            sample = without_text(sample)
        elif split == "calibration" and index % PADDED_EVERY == PADDED_EVERY - 2:
            sample = padded(sample)
        yield sample


def to_sample(one: Event) -> Sample:
    """Turn an event into arrays, see `samples`."""
    ids = words.encode_question(one.question.words)
    answer, match, phrase = words.labels(one.question)
    return {
        "image": normalise(render(one.scene)),
        "ids": ids,
        "mask": np.ones_like(ids),
        "label.answer": np.array(answer, dtype=np.int64),
        "label.match": np.array(match, dtype=np.int64),
        "label.generate": phrase,
    }


def padded(sample: Sample, length: int = words.TEXT_MAX) -> Sample:
    """Pad the text to `length`, mask 0 at the tail."""
    extra = length - len(sample["ids"])
    return sample | {k: np.pad(sample[k], (0, extra)).astype(np.int64) for k in ("ids", "mask")}


def without_text(sample: Sample) -> Sample:
    """Take the text away: TEXT_MIN pads under a mask of 0 are left, and nothing to answer."""
    blank = np.zeros(words.TEXT_MIN, dtype=np.int64)
    ignored = {k: np.full_like(v, words.IGNORED) for k, v in sample.items() if k.startswith("label.")}
    return sample | {"ids": blank, "mask": blank.copy()} | ignored
