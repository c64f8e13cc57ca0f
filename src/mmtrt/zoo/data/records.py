"""Pictures, questions and a record that knows what no picture shows: price, material, owner. Needs numpy only.

The record has a row for each shape, which holds in this event only: "what does the red thing cost" needs the
question to know which thing, the picture to see its shape, and the record for the price of that shape. Some rows
are missing, and then the right answer is "unknown". Some questions need no record at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mmtrt.zoo.data import words
from mmtrt.zoo.data.batches import Batch, BatchSize, asked_batch, draw_asked
from mmtrt.zoo.data.events import DATA_SEED, MISSING_EVERY, PADDED_EVERY, Sample, event_rng, first_asked
from mmtrt.zoo.data.questions import NUMBERS, Question, ask, name_of, pattern_of, pick, refer
from mmtrt.zoo.data.scenes import SHAPES, Scene, normalise, render

MATERIALS: Final = ("wood", "metal", "glass")
OWNERS: Final = ("anna", "ben", "carla")
UNKNOWN: Final = "unknown"
FACTS: Final = ("price", *MATERIALS, *OWNERS)
"""Columns of a row: the price from -1 to 1, then what it is made of and whose it is, one of three each."""

RECORD_SHAPE: Final = (len(SHAPES), len(FACTS))
KNOWING: Final = ("price", "material", "owner", "dearest")
"""Kinds of question that need the record."""

KINDS: Final = (*KNOWING, "colour", "size", "existence")
UNKNOWN_EVERY: Final = 8
"""Of so many questions that need the record one is about a row that is missing."""

_PRICES: Final = 5
_MISSING: Final = 0.15
_FAMILY: Final = 71
_TEMPLATES: Final = {
    "price": ("what does the {a} cost", "how much is the {a}", "please tell me what the {a} does cost"),
    "material": ("what is the {a} made of", "which material is the {a}", "please tell me what the {a} is made of"),
    "owner": ("whose is the {a}", "who does own the {a}", "please tell me who does own the {a} in this picture"),
    "dearest": ("which shape does cost most", "what is the dearest shape in this picture"),
}
_NEW: Final = {w for texts in _TEMPLATES.values() for t in texts for w in t.split() if w != "{a}"}
WORDS: Final = (*words.QUESTION_WORDS, *sorted(_NEW - set(words.QUESTION_WORDS)))
"""Question vocabulary: that of the other questions, then the new words."""

ANSWERS: Final = (*words.ANSWERS, *MATERIALS, *OWNERS, UNKNOWN)
_WORD_IDS: Final = {w: i for i, w in enumerate(WORDS)}
_ANSWER_IDS: Final = {w: i for i, w in enumerate(ANSWERS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is known of each of SHAPES: price 1 to 5, no two alike; indices of material and owner; or nothing."""

    prices: tuple[int, ...]
    materials: tuple[int, ...]
    owners: tuple[int, ...]
    known: tuple[bool, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordEvent:
    """A scene, a record, and a question about them."""

    scene: Scene
    record: Record
    question: Question


def event(split: str, index: int, seed: int = DATA_SEED) -> RecordEvent:
    """Event `index` of a split: kinds take turns, and scenes are drawn until one can be asked the target."""
    rng = event_rng(split, seed, index, _FAMILY)
    kind, target = KINDS[index % len(KINDS)], int(rng.integers(2**31))
    return first_asked(rng, lambda scene: _ask(scene, kind, target, rng))


def training_batch(seed: int, step: int, size: BatchSize) -> Batch:
    """N scenes and N * Q questions, those of a scene side by side: `image` (N, 3, 64, 64) uint8, and `collate`'s."""
    rng = event_rng("train", seed, step, _FAMILY)
    return asked_batch(rng, size, lambda scene: _draw(scene, rng), collate)


def collate(asked: Sequence[RecordEvent]) -> Batch:
    """Questions and records as arrays, texts padded to 16.

    `ids` and `mask` (n, 16), `known` (n, 4), `answer` (n,) int64; `knowledge` (n, 4, 7) float32.
    """
    ids = np.full((len(asked), words.TEXT_MAX), words.PAD, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, one in enumerate(asked):
        encoded = _encode(one.question)
        ids[row, : len(encoded)] = encoded
        mask[row, : len(encoded)] = 1
    facts, known = zip(*(encode_record(one.record) for one in asked), strict=True)
    answers = np.array([_ANSWER_IDS[str(one.question.answer)] for one in asked], dtype=np.int64)
    return {"ids": ids, "mask": mask, "knowledge": np.stack(facts), "known": np.stack(known), "answer": answers}


def encode_record(record: Record) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Facts `(4, 7)`, rows of SHAPES and columns of FACTS, 0 where missing; and which rows are known, `(4,)`."""
    facts = np.zeros(RECORD_SHAPE, dtype=np.float32)
    for row, price in enumerate(record.prices):
        facts[row, 0] = 2 * (price - 1) / (_PRICES - 1) - 1
        facts[row, 1 + record.materials[row]] = 1
        facts[row, 1 + len(MATERIALS) + record.owners[row]] = 1
    known = np.array(record.known, dtype=np.int64)
    return facts * known[:, None].astype(np.float32), known


def samples(split: str = "calibration", count: int = 256, seed: int = DATA_SEED) -> Iterator[Sample]:
    """Yield the first `count` events of a split as samples without a batch axis.

    `image` (3, 64, 64) and `knowledge` (4, 7) float32; `ids` and `mask` (t,), 4 <= t <= 16, `known` (4,) and
    `label.answer` () int64. In the calibration split one in eight is padded to 16 words, one in sixteen has no
    text, and one in sixteen has no record; the latter two have no label.
    """
    for index in range(count):
        sample = to_sample(event(split, index, seed))
        if split == "calibration":
            sample = _made_hard(sample, index)
        yield sample


def to_sample(one: RecordEvent) -> Sample:
    """Turn an event into arrays, see `samples`."""
    ids = _encode(one.question)
    facts, known = encode_record(one.record)
    return {
        "image": normalise(render(one.scene)),
        "ids": ids,
        "mask": np.ones_like(ids),
        "knowledge": facts,
        "known": known,
        "label.answer": np.array(_ANSWER_IDS[str(one.question.answer)], dtype=np.int64),
    }


def _made_hard(sample: Sample, index: int) -> Sample:
    """Pad the text, or take a modality away, where it is this event's turn."""
    ignored = {"label.answer": np.array(words.IGNORED, dtype=np.int64)}
    if index % MISSING_EVERY == MISSING_EVERY - 3:
        blank = np.zeros(words.TEXT_MIN, dtype=np.int64)
        return sample | {"ids": blank, "mask": blank.copy()} | ignored
    if index % MISSING_EVERY == MISSING_EVERY - 5:
        return sample | {k: np.zeros_like(sample[k]) for k in ("knowledge", "known")} | ignored
    if index % PADDED_EVERY == PADDED_EVERY - 2:
        extra = words.TEXT_MAX - len(sample["ids"])
        return sample | {k: np.pad(sample[k], (0, extra)).astype(np.int64) for k in ("ids", "mask")}
    return sample


def _encode(question: Question) -> NDArray[np.int64]:
    return np.array([words.START, *(_WORD_IDS[w] for w in question.words)], dtype=np.int64)


def _draw(scene: Scene, rng: np.random.Generator) -> RecordEvent:
    return draw_asked(rng, KINDS, lambda kind, target: _ask(scene, kind, target, rng))


def _ask(scene: Scene, kind: str, target: int, rng: np.random.Generator) -> RecordEvent | None:
    """Ask a question of this kind; None where it can't be asked for this target of this scene."""
    record = _draw_record(rng)
    if kind not in KNOWING:
        question = ask(scene, kind, target, rng)
        return None if question is None else RecordEvent(scene=scene, record=record, question=question)
    missing, value = target % UNKNOWN_EVERY == 0, target // UNKNOWN_EVERY
    asker = _ask_dearest if kind == "dearest" else _ask_fact
    found = asker(scene, record, kind, value, rng)
    if found is None:
        return None
    record, question, about = found
    if missing:
        question = replace(question, answer=UNKNOWN)
    gone = about[int(rng.integers(len(about)))] if missing else None
    known = tuple(row != gone if row in about else there for row, there in enumerate(record.known))
    return RecordEvent(scene=scene, record=replace(record, known=known), question=question)


Found = tuple[Record, Question, tuple[int, ...]]
"""The record, made to give the answer wanted; the question; and the rows that it is about."""


def _ask_fact(scene: Scene, record: Record, kind: str, value: int, rng: np.random.Generator) -> Found | None:
    """One fact of one thing, which is told by size and colour: its shape must be seen."""
    thing = pick(scene, rng)
    ref = refer(scene, pattern_of((0, 1), int(rng.integers(3))), thing)
    if ref is None:
        return None
    row = thing.shape
    if kind == "price":
        price = value % _PRICES + 1
        record, answer = _priced(record, row, price), NUMBERS[price]
    elif kind == "material":
        answer = MATERIALS[value % len(MATERIALS)]
        record = replace(record, materials=_put(record.materials, row, value % len(MATERIALS)))
    else:
        answer = OWNERS[value % len(OWNERS)]
        record = replace(record, owners=_put(record.owners, row, value % len(OWNERS)))
    text = _TEMPLATES[kind][int(rng.integers(len(_TEMPLATES[kind])))].format(a=name_of(ref))
    return record, Question(kind=kind, words=tuple(text.split()), answer=answer, phrase=()), (row,)


def _ask_dearest(scene: Scene, record: Record, kind: str, value: int, rng: np.random.Generator) -> Found | None:
    """Which of the shapes in the picture costs most: others may cost more, but aren't there."""
    row = value % len(SHAPES)
    there = tuple(sorted({t.shape for t in scene.things}))
    if row not in there or len(there) == 1:
        return None
    record = _priced(record, row, max(record.prices[i] for i in there))
    text = _TEMPLATES[kind][int(rng.integers(len(_TEMPLATES[kind])))]
    return record, Question(kind=kind, words=tuple(text.split()), answer=SHAPES[row], phrase=()), there


def _draw_record(rng: np.random.Generator) -> Record:
    rows = len(SHAPES)
    return Record(
        prices=tuple(int(p) + 1 for p in rng.permutation(_PRICES)[:rows]),
        materials=tuple(int(m) for m in rng.integers(len(MATERIALS), size=rows)),
        owners=tuple(int(o) for o in rng.integers(len(OWNERS), size=rows)),
        known=tuple(bool(k) for k in rng.random(rows) >= _MISSING),
    )


def _priced(record: Record, row: int, price: int) -> Record:
    """Give a row a price; the one that has it, if any, takes this row's."""
    before = record.prices[row]
    prices = tuple(before if p == price else p for p in record.prices)
    return replace(record, prices=_put(prices, row, price))


def _put(values: tuple[int, ...], row: int, value: int) -> tuple[int, ...]:
    return (*values[:row], value, *values[row + 1 :])
