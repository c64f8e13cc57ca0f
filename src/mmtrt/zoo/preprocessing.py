"""How the zoo's models are fed from pictures and questions, and what their classes are called. Needs no framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from mmtrt.preprocess import ImageRule, Preprocessing, TensorRule, TextRule
from mmtrt.preprocess.rules import Absent
from mmtrt.zoo.data import dialogues, records, scenes, words

__all__ = ["DIALOGUE", "KNOWLEDGE", "LABELS", "RETRIEVAL", "VQA"]

_SEPARATORS: Final = ".,;:!?\"'()-"


def _picture() -> ImageRule:
    told = scenes.PREPROCESSING
    return ImageRule(
        input="image",
        size=(scenes.IMAGE_SIZE, scenes.IMAGE_SIZE),
        # The pictures it was trained on are of this size; a photograph is larger by far.
        resize="bilinear_antialias",
        scale=told["scale"],
        mean=tuple(told["mean"]),
        std=tuple(told["std"]),
    )


def _text(vocabulary: Sequence[str], prefix: str = "", absent: Absent = "refused") -> TextRule:
    return TextRule(
        ids=f"{prefix}ids",
        mask=f"{prefix}mask",
        words=tuple(vocabulary),
        pad=vocabulary[words.PAD],
        start=vocabulary[words.START],
        separators=_SEPARATORS,
        length=(words.TEXT_MIN, words.TEXT_MAX),
        absent=absent,
    )


VQA: Final = Preprocessing(raw={"image": _picture(), "question": _text(words.QUESTION_WORDS)})
"""A picture and a question."""

RETRIEVAL: Final = Preprocessing(raw={"image": _picture(), "caption": _text(words.QUESTION_WORDS)})
"""A picture and a caption."""

DIALOGUE: Final = Preprocessing(
    raw={
        "image": _picture(),
        "question": _text(dialogues.WORDS),
        "history": _text(dialogues.WORDS, "history_", absent="blank"),
    }
)
"""A picture, a question, and an earlier question followed by its answer, where there was one."""

KNOWLEDGE: Final = Preprocessing(
    raw={
        "image": _picture(),
        "question": _text(records.WORDS),
        "knowledge": TensorRule(input="knowledge", dtype="float32", shape=records.RECORD_SHAPE, absent="blank"),
        "known": TensorRule(input="known", dtype="int64", shape=records.RECORD_SHAPE[:1], absent="blank"),
    }
)
"""A picture, a question, and a record with the rows that are known (`records.encode_record`), where there is one."""

_VQA: Final = {
    "answer": words.ANSWERS,
    "match": ("unmatched", "matched"),
    "generate": words.PHRASE_WORDS,
}
LABELS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = MappingProxyType(
    {"vqa": _VQA, "dialogue": {"answer": words.ANSWERS}, "vqa-knowledge": {"answer": records.ANSWERS}}
)
"""Family of models -> output -> names of its classes."""
