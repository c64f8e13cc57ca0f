"""How right a model is on a split: by head and by kind of question, with both modalities or one blinded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor, nn

from mmtrt.zoo.batches import Batch, collate
from mmtrt.zoo.events import Event, event
from mmtrt.zoo.questions import KINDS
from mmtrt.zoo.scenes import normalise, render

Blind = Literal["none", "image", "question"]
TEST_EVENTS: Final = 5000
"""4,000 matched pairs, whose answers count, and 1,000 unmatched ones."""

_CHUNK: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Shares of right results; answers and phrases over matched pairs, the match over all pairs."""

    pairs: int
    matched: int
    answer_accuracy: float
    answer_accuracy_by_kind: dict[str, float]
    match_accuracy: float
    match_f1: float
    unmatched_f1: float
    generate_exact: float


def evaluate(model: nn.Module, split: str, count: int, blind: Blind = "none") -> Scores:
    """Score a model, in eval mode, on the first `count` events of a split."""
    rows = [_right(model, chunk, blind) for chunk in _chunks(event(split, i) for i in range(count))]
    kinds = np.concatenate([r[0] for r in rows])
    matched, matched_said, answer, phrase = (np.concatenate([r[i] for r in rows]) for i in range(1, 5))
    of_kind = {kind: answer[matched & (kinds == kind)] for kind in KINDS}
    return Scores(
        pairs=len(kinds),
        matched=int(matched.sum()),
        answer_accuracy=float(answer[matched].mean()),
        answer_accuracy_by_kind={k: float(v.mean()) for k, v in of_kind.items() if v.size},
        match_accuracy=float((matched == matched_said).mean()),
        match_f1=_f1(matched, matched_said),
        unmatched_f1=_f1(~matched, ~matched_said),
        generate_exact=float(phrase[matched].mean()),
    )


def to_inputs(batch: Batch, blind: Blind) -> tuple[Tensor, Tensor, Tensor]:
    """Image, ids and mask of a batch; a blinded image is all 0, a blinded question all masked."""
    image = torch.from_numpy(normalise(batch["image"]))
    ids, mask = torch.from_numpy(batch["ids"]), torch.from_numpy(batch["mask"])
    if blind == "image":
        image = torch.zeros_like(image)
    if blind == "question":
        ids, mask = torch.zeros_like(ids), torch.zeros_like(mask)
    return image, ids, mask


def majority(split: str, count: int) -> dict[str, float]:
    """Share of the commonest answer of the matched pairs: `overall`, and `by_kind` if the kind is known."""
    questions = [q for q in (event(split, i).question for i in range(count)) if q.matched]
    overall = Counter(q.answer for q in questions).most_common(1)[0][1]
    by_kind = (Counter(q.answer for q in questions if q.kind == k).most_common(1) for k in KINDS)
    return {
        "overall": overall / len(questions),
        "by_kind": sum(top[0][1] for top in by_kind if top) / len(questions),
    }


def _right(model: nn.Module, chunk: Sequence[Event], blind: Blind) -> tuple[np.ndarray, ...]:
    """Kinds, matched, called matched, answer right and phrase right of a chunk, each `(n,)`."""
    batch = {"image": np.stack([render(e.scene) for e in chunk])} | collate([e.question for e in chunk])
    with torch.inference_mode():
        answer, match, phrase = (logits.argmax(-1).numpy() for logits in model(*to_inputs(batch, blind)))
    return (
        np.array([e.question.kind for e in chunk]),
        batch["match"] == 1,
        match == 1,
        answer == batch["answer"],
        (phrase == batch["generate"]).all(axis=1),
    )


def _chunks(events: Iterable[Event]) -> Iterator[list[Event]]:
    source = iter(events)
    while chunk := list(islice(source, _CHUNK)):
        yield chunk


def _f1(truth: np.ndarray, said: np.ndarray) -> float:
    both = float((truth & said).sum())
    total = float(truth.sum() + said.sum())
    return 2 * both / total if total else 0.0
