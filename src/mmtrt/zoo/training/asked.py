"""Models that answer questions on a picture with something further: the loss and the scores of one answer head."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mmtrt.zoo.data.batches import Batch
from mmtrt.zoo.data.questions import Question
from mmtrt.zoo.data.scenes import Scene, normalise, render

__all__ = ["Asked", "AskedEvent"]

_CHUNK: Final = 100

Model = TypeVar("Model", bound=nn.Module)


class AskedEvent(Protocol):
    """A scene and a question, with whatever else the event holds."""

    @property
    def scene(self) -> Scene:
        """What the picture shows."""
        ...

    @property
    def question(self) -> Question:
        """What is asked."""
        ...


Event = TypeVar("Event", bound=AskedEvent)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How one such family is learned and scored; its methods fit a Lesson.

    The model has `encode_image`, so that a picture is encoded once for all of its questions, and `fuse`, which takes
    the image tokens and the other inputs by name. Blinding a modality zeroes its inputs, masks included.
    """

    modalities: Mapping[str, tuple[str, ...]]
    """Modality -> names of its inputs."""
    event: Callable[[str, int], Any]
    """Split and index to an event."""
    collate: Callable[[Sequence[Any]], Batch]
    """Events to arrays, `answer` among them, all but the pictures."""
    kinds: tuple[str, ...]
    needing: tuple[str, ...]
    """Kinds of question that need the further modality; their accuracy is told by itself."""
    further: str
    """The further modality."""

    def loss(self, model: Any, batch: Batch, blind: str) -> Tensor:
        """Cross entropy of the answers."""
        given = self._inputs(batch, blind)
        image = given.pop("image").contiguous(memory_format=torch.channels_last)
        tokens = model.encode_image(image).repeat_interleave(len(batch["answer"]) // len(image), dim=0)
        logits = model.fuse(tokens, **given)
        return functional.cross_entropy(logits.float(), torch.from_numpy(batch["answer"]))

    def scores(self, model: nn.Module, split: str, count: int, blind: str) -> dict[str, float]:
        """Answer accuracy over all, over those that need the further modality, and by kind of question."""
        events = _drawn(self.event, split, count)
        right = np.concatenate(
            [self._right(model, events[i : i + _CHUNK], blind) for i in range(0, len(events), _CHUNK)]
        )
        kinds = np.array([e.question.kind for e in events])
        of_kind = {kind: right[kinds == kind] for kind in self.kinds}
        return {
            "answer accuracy": float(right.mean()),
            f"answer accuracy, needing the {self.further}": float(right[np.isin(kinds, self.needing)].mean()),
            **{f"answer accuracy, {kind}": float(share.mean()) for kind, share in of_kind.items() if share.size},
        }

    def chance(self, count: int) -> dict[str, float]:
        """Share of the commonest answer on the test split: of all, and of each kind of question."""
        asked = [e.question for e in _drawn(self.event, "test", count)]
        overall = Counter(q.answer for q in asked).most_common(1)[0][1]
        by_kind = (Counter(q.answer for q in asked if q.kind == k).most_common(1) for k in self.kinds)
        return {
            "commonest answer": overall / len(asked),
            "commonest answer of each kind of question": sum(top[0][1] for top in by_kind if top) / len(asked),
        }

    def _inputs(self, batch: Batch, blind: str) -> dict[str, Tensor]:
        names = [name for names in self.modalities.values() for name in names]
        given = {n: torch.from_numpy(normalise(batch[n]) if n == "image" else batch[n]) for n in names}
        return given | {n: torch.zeros_like(given[n]) for n in self.modalities.get(blind, ())}

    def _right(self, model: nn.Module, chunk: Sequence[AskedEvent], blind: str) -> np.ndarray:
        batch = {"image": np.stack([render(e.scene) for e in chunk])} | self.collate(chunk)
        with torch.inference_mode():
            said = model(**self._inputs(batch, blind)).argmax(-1).numpy()
        return np.asarray(said == batch["answer"])


@lru_cache(maxsize=8)
def _drawn(event: Callable[[str, int], AskedEvent], split: str, count: int) -> tuple[AskedEvent, ...]:
    """Return the first events of a split; drawn once, as validation asks for them again and again."""
    return tuple(event(split, i) for i in range(count))
