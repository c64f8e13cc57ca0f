"""`vqa-knowledge`: questions on a picture and on a record of facts, three modalities in early fusion."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mmtrt.zoo import preprocessing
from mmtrt.zoo.blocks.encoders import additive_mask
from mmtrt.zoo.checkpoints import load_checkpoint
from mmtrt.zoo.data import records, words
from mmtrt.zoo.models.answerer import SCHEDULE, Answerer, from_early
from mmtrt.zoo.models.vqa import Factory, VqaConfig
from mmtrt.zoo.models.vqa_early import SIZES
from mmtrt.zoo.training import vqa
from mmtrt.zoo.training.asked import Asked
from mmtrt.zoo.training.lesson import Lesson

__all__ = ["LESSON", "NAME", "KnowledgeEncoder", "VqaKnowledge", "factory"]

NAME: Final = "vqa-knowledge"
MODALITIES: Final = {"image": ("image",), "question": ("ids", "mask"), "knowledge": ("knowledge", "known")}


class KnowledgeEncoder(nn.Module):
    """A record of K rows with F facts each, `(B, K, F)`, to tokens `(B, K, D)`; a row is told by its place."""

    def __init__(self, rows: int, facts: int, width: int) -> None:
        super().__init__()
        self.facts = nn.Linear(facts, width)
        self.mix = nn.Linear(width, width)
        self.rows = nn.Parameter(torch.empty(rows, width))
        nn.init.normal_(self.rows, std=0.3)

    def forward(self, knowledge: Tensor, known: Tensor) -> Tensor:
        """`known` `(B, K)` is 1 where a row is there; the token of a missing one says just that."""
        there = known.to(knowledge.dtype)[:, :, None]
        tokens: Tensor = self.mix(functional.gelu(self.facts(knowledge))) * there + self.rows
        return tokens


class VqaKnowledge(Answerer):
    """A picture, a question and a record in; answer logits out."""

    def __init__(self, config: VqaConfig = SIZES) -> None:
        super().__init__(config, len(records.WORDS), len(records.ANSWERS))
        self.knowledge_encoder = KnowledgeEncoder(*records.RECORD_SHAPE, config.width)

    def forward(self, image: Tensor, ids: Tensor, mask: Tensor, knowledge: Tensor, known: Tensor) -> Tensor:
        """Logits `(B, A)` of image `(B, 3, 64, 64)`, ids and mask `(B, T <= 16)`, facts `(B, K, F)`, known `(B, K)`."""
        return self.fuse(self.encode_image(image), ids, mask, knowledge, known)

    def fuse(self, image_tokens: Tensor, ids: Tensor, mask: Tensor, knowledge: Tensor, known: Tensor) -> Tensor:
        """Logits for image tokens `(B, 64, D)`, one question and one record each."""
        # Rows that are missing stay in sight: that a fact is unknown is an answer.
        facts = self.knowledge_encoder(knowledge, known), additive_mask(torch.ones_like(known))
        return self.answer_from(image_tokens, *self.encode_text(ids, mask), *facts)


def _data() -> dict[str, Any]:
    return vqa.pictures() | {
        "record": f"a row for each shape, of {', '.join(records.FACTS)}; drawn anew for each event",
        "kinds of question": records.KINDS,
        "of these need the record": records.KNOWING,
        "missing rows": f"asked about by 1 in {records.UNKNOWN_EVERY}, whose answer is {records.UNKNOWN!r}",
        "question words": len(records.WORDS),
        "answers": records.ANSWERS,
        "text tokens": [words.TEXT_MIN, words.TEXT_MAX],
    }


def _inputs() -> dict[str, Tensor]:
    rows, facts = records.RECORD_SHAPE
    known = torch.ones((1, rows), dtype=torch.int64)
    return vqa.inputs() | {"knowledge": torch.zeros((1, rows, facts)), "known": known}


_ASKED: Final = Asked(
    modalities=MODALITIES,
    event=records.event,
    collate=records.collate,
    kinds=records.KINDS,
    needing=records.KNOWING,
    further="knowledge",
)
LESSON: Final[Lesson[VqaKnowledge]] = Lesson(
    name=NAME,
    what="A picture, a question and a record of facts, their tokens concatenated to one sequence; out comes the "
    "answer, for which most questions need all three.",
    modalities=tuple(MODALITIES),
    make=VqaKnowledge,
    batch=records.training_batch,
    loss=_ASKED.loss,
    scores=_ASKED.scores,
    metric="answer accuracy",
    schedule=replace(SCHEDULE, steps=1600),
    inputs=_inputs,
    data=_data,
    data_modules=(*vqa.DATA_MODULES, records),
    chance=partial(_ASKED.chance, 4000),
    start=from_early,
)


def factory() -> Factory:
    """Give what `zoo:vqa-knowledge` exports: module, example inputs, dynamic axes, extra facts."""
    asked = [records.event("calibration", i) for i in range(2)]
    pictures = [records.to_sample(one)["image"] for one in asked]
    arrays = {"image": np.stack(pictures)} | records.collate(asked)
    inputs = {n: torch.from_numpy(arrays[n]) for names in MODALITIES.values() for n in names}
    axes = {n: {0: "batch"} for n in inputs} | {n: {0: "batch", 1: "text"} for n in ("ids", "mask")}
    extra = {
        "modalities": {"image": ["image"], "text": ["ids", "mask"], "knowledge": ["knowledge", "known"]},
        "outputs": ["answer"],
        "ranges": {"batch": [1, 8, 32], "text": [words.TEXT_MIN, 12, words.TEXT_MAX]},
        "samples": records.samples,
        "preprocessing": preprocessing.KNOWLEDGE,
        "labels": preprocessing.LABELS[NAME],
    }
    return load_checkpoint(VqaKnowledge(), NAME), inputs, axes, extra
