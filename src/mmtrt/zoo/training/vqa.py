"""What the visual question answering models have in common: the loss, the scores, and what their cards say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from mmtrt.zoo.blocks.heads import joint_loss
from mmtrt.zoo.data import batches, events, questions, scenes, words
from mmtrt.zoo.data.batches import Batch, collate
from mmtrt.zoo.data.events import Event, event
from mmtrt.zoo.training.lesson import SEEING

__all__ = ["DATA_MODULES", "MODALITIES", "TEST_EVENTS", "chance", "data", "inputs", "loss", "pictures", "scores"]

MODALITIES: Final = ("image", "question")
TEST_EVENTS: Final = 5000
"""4,000 matched pairs, whose answers count, and 1,000 unmatched ones."""

DATA_MODULES: Final = (scenes, questions, words, events, batches)

_CHUNK: Final = 100

Logits = tuple[Tensor, Tensor, Tensor]


class Answering(Protocol):
    """A model that encodes a picture once for all of its questions."""

    def encode_image(self, image: Tensor) -> Tensor:
        """Grid tokens `(B, G, D)` of images `(B, 3, 64, 64)`."""
        ...

    def fuse(self, image_tokens: Tensor, ids: Tensor, mask: Tensor) -> Logits:
        """Answer, match and generate logits of image tokens with one question each."""
        ...


def loss(model: Answering, batch: Batch, blind: str = SEEING) -> Tensor:
    """Joint loss of a batch; each picture is encoded once for all of its questions."""
    image, ids, mask = to_inputs(batch, blind)
    tokens = model.encode_image(image.contiguous(memory_format=torch.channels_last))
    tokens = tokens.repeat_interleave(len(ids) // len(image), dim=0)
    answer, match, generate = (torch.from_numpy(batch[k]) for k in ("answer", "match", "generate"))
    return joint_loss(model.fuse(tokens, ids, mask), (answer, match, generate))


def scores(model: nn.Module, split: str, count: int, blind: str = SEEING) -> dict[str, float]:
    """Score a model, in eval mode, on the first `count` events of a split.

    Answers and phrases count over the matched pairs, the match over all pairs.
    """
    rows = [_right(model, chunk, blind) for chunk in _chunks(drawn(split, count))]
    kinds = np.concatenate([r[0] for r in rows])
    matched, matched_said, answer, phrase = (np.concatenate([r[i] for r in rows]) for i in range(1, 5))
    of_kind = {kind: answer[matched & (kinds == kind)] for kind in questions.KINDS}
    return {
        "answer accuracy": float(answer[matched].mean()),
        **{f"answer accuracy, {kind}": float(right.mean()) for kind, right in of_kind.items() if right.size},
        "match accuracy": float((matched == matched_said).mean()),
        "match F1, matched pairs": _f1(matched, matched_said),
        "match F1, unmatched pairs": _f1(~matched, ~matched_said),
        "generated phrase exactly right": float(phrase[matched].mean()),
    }


def to_inputs(batch: Batch, blind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Image, ids and mask of a batch; a blinded image is all 0, a blinded question all masked."""
    image = torch.from_numpy(scenes.normalise(batch["image"]))
    ids, mask = torch.from_numpy(batch["ids"]), torch.from_numpy(batch["mask"])
    if blind == "image":
        image = torch.zeros_like(image)
    if blind == "question":
        ids, mask = torch.zeros_like(ids), torch.zeros_like(mask)
    return image, ids, mask


def inputs() -> dict[str, Tensor]:
    """One picture with the longest question."""
    text = torch.ones((1, words.TEXT_MAX), dtype=torch.int64)
    return {"image": torch.zeros((1, 3, scenes.IMAGE_SIZE, scenes.IMAGE_SIZE)), "ids": text, "mask": text}


@cache
def drawn(split: str, count: int) -> tuple[Event, ...]:
    """Return the first events of a split; drawn once, as validation asks for them again and again."""
    return tuple(event(split, i) for i in range(count))


def chance(split: str = "test", count: int = TEST_EVENTS) -> dict[str, float]:
    """Share of the commonest answer of the matched pairs: of all, and of each kind of question."""
    asked = [e.question for e in drawn(split, count) if e.question.matched]
    overall = Counter(q.answer for q in asked).most_common(1)[0][1]
    by_kind = (Counter(q.answer for q in asked if q.kind == k).most_common(1) for k in questions.KINDS)
    return {
        "commonest answer": overall / len(asked),
        "commonest answer of each kind of question": sum(top[0][1] for top in by_kind if top) / len(asked),
    }


def data() -> dict[str, Any]:
    """Describe the generated pictures and questions."""
    return pictures() | {
        "kinds of question": questions.KINDS,
        "question words": len(words.QUESTION_WORDS),
        "answers": words.ANSWERS,
        "phrase words": len(words.PHRASE_WORDS),
        "text tokens": [words.TEXT_MIN, words.TEXT_MAX],
        "unmatched": f"1 in {events.UNMATCHED_EVERY} pairs of validation, calibration and test: "
        "the question speaks of a thing that is not there",
    }


def pictures() -> dict[str, Any]:
    """Describe the generated pictures."""
    return {
        "image": f"64x64 RGB; {scenes.MIN_THINGS} to {scenes.MAX_THINGS} things, each at least "
        f"{scenes.MIN_VISIBLE:.0%} visible, on a shaded grey ground with noise",
        "preprocessing": scenes.PREPROCESSING,
        "sizes": scenes.SIZES,
        "colours": scenes.COLOURS,
        "shapes": scenes.SHAPES,
        "seed": events.DATA_SEED,
    }


def _right(model: nn.Module, chunk: Sequence[Event], blind: str) -> tuple[np.ndarray, ...]:
    """Kinds, matched, called matched, answer right and phrase right of a chunk, each `(n,)`."""
    batch = {"image": np.stack([scenes.render(e.scene) for e in chunk])} | collate([e.question for e in chunk])
    with torch.inference_mode():
        answer, match, phrase = (logits.argmax(-1).numpy() for logits in model(*to_inputs(batch, blind)))
    return (
        np.array([e.question.kind for e in chunk]),
        batch["match"] == 1,
        match == 1,
        answer == batch["answer"],
        (phrase == batch["generate"]).all(axis=1),
    )


def _chunks(all_of: Sequence[Event]) -> Iterator[Sequence[Event]]:
    return (all_of[i : i + _CHUNK] for i in range(0, len(all_of), _CHUNK))


def _f1(truth: np.ndarray, said: np.ndarray) -> float:
    both = float((truth & said).sum())
    total = float(truth.sum() + said.sum())
    return 2 * both / total if total else 0.0
