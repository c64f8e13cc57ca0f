"""`dialogue`: a question on a picture that may refer to an earlier question and its answer, in early fusion."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from mmtrt.zoo import preprocessing
from mmtrt.zoo.checkpoints import load_checkpoint
from mmtrt.zoo.data import dialogues, words
from mmtrt.zoo.models.answerer import SCHEDULE, Answerer, from_early
from mmtrt.zoo.models.vqa import Factory, VqaConfig
from mmtrt.zoo.models.vqa_early import SIZES
from mmtrt.zoo.training import vqa
from mmtrt.zoo.training.asked import Asked
from mmtrt.zoo.training.lesson import Lesson

__all__ = ["LESSON", "NAME", "DialogueModel", "factory"]

NAME: Final = "dialogue"
MODALITIES: Final = {
    "image": ("image",),
    "question": ("ids", "mask"),
    "history": ("history_ids", "history_mask"),
}


class DialogueModel(Answerer):
    """A picture, a question, and an earlier question with its answer in; answer logits out.

    One text encoder reads both texts.
    """

    def __init__(self, config: VqaConfig = SIZES) -> None:
        super().__init__(config, len(dialogues.WORDS), len(words.ANSWERS))

    def forward(self, image: Tensor, ids: Tensor, mask: Tensor, history_ids: Tensor, history_mask: Tensor) -> Tensor:
        """Logits `(B, A)` of image `(B, 3, 64, 64)`, ids and mask `(B, T <= 16)`, and of the history `(B, H <= 16)`."""
        return self.fuse(self.encode_image(image), ids, mask, history_ids, history_mask)

    def fuse(
        self, image_tokens: Tensor, ids: Tensor, mask: Tensor, history_ids: Tensor, history_mask: Tensor
    ) -> Tensor:
        """Logits for image tokens `(B, 64, D)`, one question with its history each."""
        return self.answer_from(
            image_tokens, *self.encode_text(ids, mask), *self.encode_text(history_ids, history_mask)
        )


def _data() -> dict[str, Any]:
    return vqa.pictures() | {
        "kinds of question": dialogues.KINDS,
        "of these need the history": dialogues.REFERRING,
        "without history": f"1 in {dialogues.ALONE_EVERY} of those that stand alone",
        "question words": len(dialogues.WORDS),
        "answers": words.ANSWERS,
        "text tokens": [words.TEXT_MIN, words.TEXT_MAX],
    }


def _inputs() -> dict[str, Tensor]:
    text = torch.ones((1, words.TEXT_MAX), dtype=torch.int64)
    return vqa.inputs() | {"history_ids": text, "history_mask": text}


_ASKED: Final = Asked(
    modalities=MODALITIES,
    event=dialogues.event,
    collate=dialogues.collate,
    kinds=dialogues.KINDS,
    needing=dialogues.REFERRING,
    further="history",
)
LESSON: Final[Lesson[DialogueModel]] = Lesson(
    name=NAME,
    what="A picture, a question, and the question and answer before it, their tokens concatenated to one sequence; "
    "out comes the answer.",
    modalities=tuple(MODALITIES),
    make=DialogueModel,
    batch=dialogues.training_batch,
    loss=_ASKED.loss,
    scores=_ASKED.scores,
    metric="answer accuracy",
    schedule=SCHEDULE,
    inputs=_inputs,
    data=_data,
    data_modules=(*vqa.DATA_MODULES, dialogues),
    chance=partial(_ASKED.chance, 4000),
    start=from_early,
)


def factory() -> Factory:
    """Give what `zoo:dialogue` exports: module, example inputs, dynamic axes, extra facts."""
    asked = [dialogues.event("calibration", i) for i in range(2)]
    arrays = {"image": np.stack([dialogues.to_sample(one)["image"] for one in asked])} | dialogues.collate(asked)
    inputs = {n: torch.from_numpy(arrays[n]) for names in MODALITIES.values() for n in names}
    inputs |= {n: inputs[n][:, :12] for n in ("ids", "mask")}
    axes = {"image": {0: "batch"}}
    axes |= {n: {0: "batch", 1: "text"} for n in MODALITIES["question"]}
    axes |= {n: {0: "batch", 1: "history"} for n in MODALITIES["history"]}
    sizes = [words.TEXT_MIN, 12, words.TEXT_MAX]
    extra = {
        "modalities": {"image": ["image"], "text": ["ids", "mask"], "history": ["history_ids", "history_mask"]},
        "outputs": ["answer"],
        "ranges": {"batch": [1, 8, 32], "text": sizes, "history": sizes},
        "samples": dialogues.samples,
        "preprocessing": preprocessing.DIALOGUE,
        "labels": preprocessing.LABELS[NAME],
    }
    return load_checkpoint(DialogueModel(), NAME), inputs, axes, extra
