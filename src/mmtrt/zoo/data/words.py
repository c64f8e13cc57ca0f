"""The closed vocabularies of questions, answers and phrases, and the tokenizer. Needs numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mmtrt.zoo.data.questions import MIDDLE, NUMBERS, Question, plural, templates
from mmtrt.zoo.data.scenes import COLOURS, SHAPES, SIZES

PAD: Final = 0
START: Final = 1
TEXT_MIN: Final = 4
TEXT_MAX: Final = 16
PHRASE_LENGTH: Final = 5
IGNORED: Final = -1

_NOUNS: Final = ("thing", plural("thing"), *SHAPES, *map(plural, SHAPES))
_WORDS: Final = {w for t in templates() for w in t.split() if not w.startswith("{")}
QUESTION_WORDS: Final = ("<pad>", "<start>", *sorted(_WORDS | set(SIZES) | set(COLOURS) | set(_NOUNS) | {MIDDLE}))
"""Question vocabulary; a word's id is its place. Each question begins with `<start>`."""

ANSWERS: Final = (
    *("yes", "no"),
    *NUMBERS,
    *("more", "fewer", "equal"),
    *COLOURS,
    *SHAPES,
    *SIZES,
    *("left", "right", "above", "below"),
)
"""Answer classes of the answer head."""

PHRASE_WORDS: Final = ("<pad>", "<end>", "a", *ANSWERS)
"""Vocabulary of the generate head."""

_QUESTION_IDS: Final = {w: i for i, w in enumerate(QUESTION_WORDS)}
_ANSWER_IDS: Final = {w: i for i, w in enumerate(ANSWERS)}
_PHRASE_IDS: Final = {w: i for i, w in enumerate(PHRASE_WORDS)}
_PHRASE_SLOT: Final = {"size": 1, "colour": 2, "shape": 3}


def encode_question(words: Sequence[str]) -> NDArray[np.int64]:
    """Ids `(1 + len(words),)`, the start token first; KeyError names a word outside the vocabulary."""
    return np.array([START, *(_QUESTION_IDS[w] for w in words)], dtype=np.int64)


def decode_question(ids: Sequence[int] | NDArray[np.int64]) -> tuple[str, ...]:
    """Words of ids `(t,)`, without padding and start."""
    return tuple(QUESTION_WORDS[int(i)] for i in ids if int(i) not in (PAD, START))


def encode_answer(answer: str | None) -> int:
    """Class of an answer; IGNORED for the absent answer of an unmatched pair."""
    return IGNORED if answer is None else _ANSWER_IDS[answer]


def encode_phrase(phrase: Sequence[str]) -> NDArray[np.int64]:
    """Ids `(PHRASE_LENGTH,)`: the words, `<end>`, padding; all IGNORED for an empty phrase."""
    if not phrase:
        return np.full(PHRASE_LENGTH, IGNORED, dtype=np.int64)
    ids = [*(_PHRASE_IDS[w] for w in phrase), _PHRASE_IDS["<end>"]]
    return np.array(ids + [PAD] * (PHRASE_LENGTH - len(ids)), dtype=np.int64)


def decode_phrase(ids: Sequence[int] | NDArray[np.int64]) -> tuple[str, ...]:
    """Words of ids `(PHRASE_LENGTH,)` up to `<end>`."""
    words = [PHRASE_WORDS[int(i)] for i in ids]
    return tuple(words[: words.index("<end>")] if "<end>" in words else words)


def phrase_answer(kind: str, phrase: Sequence[str]) -> str:
    """Read the answer off a phrase: "a large red circle" says "red" to a question of kind colour."""
    return phrase[_PHRASE_SLOT.get(kind, 0)]


def labels(question: Question) -> tuple[int, int, NDArray[np.int64]]:
    """Answer class, match (1 matched, 0 not) and phrase ids of a question."""
    return encode_answer(question.answer), int(question.matched), encode_phrase(question.phrase)
