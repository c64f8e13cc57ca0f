"""Two questions on a picture, of which the second refers to the first: "what shape is it". Needs numpy only.

The first question and its answer are the history. "it" is the thing that the first question was about, "that
colour" is the answer it got; neither can be told without the history. Some questions stand alone, and some of those
have no history before them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mmtrt.zoo.data import words
from mmtrt.zoo.data.batches import Batch, BatchSize, asked_batch, draw_asked
from mmtrt.zoo.data.events import DATA_SEED, MISSING_EVERY, PADDED_EVERY, Sample, event_rng, first_asked
from mmtrt.zoo.data.questions import ALL, MARGIN, MIDDLE, NUMBERS, Question, ask, pattern_of, pick, refer, word
from mmtrt.zoo.data.scenes import COLOURS, IMAGE_SIZE, SHAPES, SIZES, Scene, Thing, normalise, render

REFERRING: Final = ("its colour", "its shape", "its size", "its side", "as many")
"""Kinds of question that need the history."""

KINDS: Final = (*REFERRING, "colour", "shape", "existence")
ALONE_EVERY: Final = 2
"""Of so many questions that stand alone one has no history."""

_ATTRIBUTES: Final = {"size": 0, "colour": 1, "shape": 2}
_VALUES: Final = (SIZES, COLOURS, SHAPES)
_FAMILY: Final = 97
_TEMPLATES: Final = {
    "its colour": ("what colour is it", "which colour does it have", "please tell me the colour of it"),
    "its shape": ("what shape is it", "which shape does it have", "please tell me the shape of it"),
    "its size": ("what size is it", "which size does it have", "is it small or large"),
    "left or right": ("is it left or right of the middle",),
    "above or below": ("is it above or below the middle",),
    "colour": ("how many things have that colour", "count the things of that colour"),
    "shape": ("how many things have that shape", "count the things of that shape"),
    "size": ("how many things have that size", "count the things of that size"),
}
_NEW: Final = {w for texts in _TEMPLATES.values() for t in texts for w in t.split()} | set(words.ANSWERS)
WORDS: Final = (*words.QUESTION_WORDS, *sorted(_NEW - set(words.QUESTION_WORDS)))
"""Vocabulary of both questions and the answer between: that of the other questions, then the new words."""

_WORD_IDS: Final = {w: i for i, w in enumerate(WORDS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue:
    """A scene, an earlier question with its answer (or none), and the question to be answered."""

    scene: Scene
    before: Question | None
    question: Question


def event(split: str, index: int, seed: int = DATA_SEED) -> Dialogue:
    """Event `index` of a split: kinds take turns, and scenes are drawn until one can be asked the target."""
    rng = event_rng(split, seed, index, _FAMILY)
    # Each round begins one kind later, else the padded samples would all be of one kind.
    kind, target = KINDS[(index + index // len(KINDS)) % len(KINDS)], int(rng.integers(2**31))
    return first_asked(rng, lambda scene: _ask(scene, kind, target, rng))


def training_batch(seed: int, step: int, size: BatchSize) -> Batch:
    """N scenes and N * Q dialogues, those of a scene side by side: `image` (N, 3, 64, 64) uint8, and `collate`'s."""
    rng = event_rng("train", seed, step, _FAMILY)
    return asked_batch(rng, size, lambda scene: _draw(scene, rng), collate)


def collate(asked: Sequence[Dialogue]) -> Batch:
    """Dialogues as arrays, texts padded to 16: `ids`, `mask`, `history_ids`, `history_mask` (n, 16), `answer` (n,)."""
    shape = (len(asked), words.TEXT_MAX)
    batch = {k: np.zeros(shape, dtype=np.int64) for k in ("ids", "mask", "history_ids", "history_mask")}
    for row, one in enumerate(asked):
        for prefix, encoded in (("", _encode(one.question)), ("history_", _history(one.before))):
            batch[f"{prefix}ids"][row, : len(encoded)] = encoded
            batch[f"{prefix}mask"][row, : len(encoded)] = 1
    return batch | {"answer": np.array([words.encode_answer(one.question.answer) for one in asked], dtype=np.int64)}


def samples(split: str = "calibration", count: int = 256, seed: int = DATA_SEED) -> Iterator[Sample]:
    """Yield the first `count` events of a split as samples without a batch axis.

    `image` (3, 64, 64) float32; `ids` and `mask` (t,), `history_ids` and `history_mask` (h,), `label.answer` ()
    int64; 4 <= t, h <= 16. A missing history is 4 pads under a mask of 0. In the calibration split one in eight is
    padded to 16 words, one in sixteen has no question, and one in sixteen no history; the latter two have no label.
    """
    for index in range(count):
        sample = to_sample(event(split, index, seed))
        if split == "calibration":
            sample = _made_hard(sample, index)
        yield sample


def to_sample(one: Dialogue) -> Sample:
    """Turn an event into arrays, see `samples`."""
    ids, history = _encode(one.question), _history(one.before)
    missing = np.zeros(words.TEXT_MIN, dtype=np.int64)
    return {
        "image": normalise(render(one.scene)),
        "ids": ids,
        "mask": np.ones_like(ids),
        "history_ids": history if len(history) else missing,
        "history_mask": np.ones_like(history) if len(history) else missing.copy(),
        "label.answer": np.array(words.encode_answer(one.question.answer), dtype=np.int64),
    }


def _made_hard(sample: Sample, index: int) -> Sample:
    """Pad the texts, or take one away, where it is this event's turn."""
    missing = {MISSING_EVERY - 3: "", MISSING_EVERY - 5: "history_"}.get(index % MISSING_EVERY)
    if missing is not None:
        blank = np.zeros(words.TEXT_MIN, dtype=np.int64)
        ignored = {"label.answer": np.array(words.IGNORED, dtype=np.int64)}
        return sample | {f"{missing}ids": blank, f"{missing}mask": blank.copy()} | ignored
    if index % PADDED_EVERY == PADDED_EVERY - 2:
        texts = ("ids", "mask", "history_ids", "history_mask")
        return sample | {k: np.pad(sample[k], (0, words.TEXT_MAX - len(sample[k]))).astype(np.int64) for k in texts}
    return sample


def _encode(question: Question) -> NDArray[np.int64]:
    return np.array([words.START, *(_WORD_IDS[w] for w in question.words)], dtype=np.int64)


def _history(before: Question | None) -> NDArray[np.int64]:
    """Ids of the earlier question and its answer, `(h,)`; none where there was no question."""
    if before is None:
        return np.zeros(0, dtype=np.int64)
    return np.append(_encode(before), np.int64(_WORD_IDS[str(before.answer)]))


def _draw(scene: Scene, rng: np.random.Generator) -> Dialogue:
    return draw_asked(rng, KINDS, lambda kind, target: _ask(scene, kind, target, rng))


def _ask(scene: Scene, kind: str, target: int, rng: np.random.Generator) -> Dialogue | None:
    """Ask a question of this kind after another; None where it can't be asked for this target of this scene."""
    if kind not in REFERRING:
        question = ask(scene, kind, target // ALONE_EVERY, rng)
        before = _ask_about(scene, pick(scene, rng), None, rng) if target % ALONE_EVERY else None
        lost = question is None or (target % ALONE_EVERY and before is None)
        return None if lost or question is None else Dialogue(scene=scene, before=before, question=question)
    thing = pick(scene, rng)
    attribute = {"its colour": "colour", "its shape": "shape", "its size": "size"}.get(kind)
    first = _ask_about(scene, thing, attribute, rng)
    if first is None:
        return None
    found = _refer_back(scene, thing, first, (kind, target))
    if found is None:
        return None
    template, answer = found
    text = _TEMPLATES[template][int(rng.integers(len(_TEMPLATES[template])))]
    question = Question(kind=kind, words=tuple(text.split()), answer=answer, phrase=())
    return Dialogue(scene=scene, before=first, question=question)


def _ask_about(scene: Scene, thing: Thing, avoid: str | None, rng: np.random.Generator) -> Question | None:
    """Ask for an attribute of a thing, and tell nothing of the attribute to avoid, which the next question is about."""
    asked = [name for name in _ATTRIBUTES if name != avoid][int(rng.integers(2 if avoid else 3))]
    told = tuple(i for i in ALL if i not in (_ATTRIBUTES[asked], _ATTRIBUTES.get(str(avoid))))
    ref = refer(scene, pattern_of(told, int(rng.integers(7))), thing)
    if ref is None:
        return None
    answer = _VALUES[_ATTRIBUTES[asked]][thing.attributes[_ATTRIBUTES[asked]]]
    return Question(kind=asked, words=word(asked, rng, ref), answer=answer, phrase=())


def _refer_back(scene: Scene, thing: Thing, first: Question, wanted: tuple[str, int]) -> tuple[str, str] | None:
    """The template and the answer of a question on what came first, if the answer is the one wanted."""
    kind, target = wanted
    if kind == "as many":
        asked = (_ATTRIBUTES[first.kind],)
        number = sum(t.attributes[asked[0]] == thing.attributes[asked[0]] for t in scene.things)
        return (first.kind, NUMBERS[number]) if number == 1 + target % 4 else None
    if kind == "its side":
        axis, side = target % 2, target // 2 % 2
        offset = (thing.x, thing.y)[axis] - IMAGE_SIZE / 2
        if abs(offset) < MARGIN[MIDDLE] or (offset > 0) != (side == 1):
            return None
        names = (("left", "right"), ("above", "below"))[axis]
        return " or ".join(names), names[side]
    attribute = _ATTRIBUTES[kind.removeprefix("its ")]
    value = target % len(_VALUES[attribute])
    return (kind, _VALUES[attribute][value]) if thing.attributes[attribute] == value else None
