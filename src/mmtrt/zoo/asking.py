"""Asks a zoo model about a picture, over whatever runs it: `Vqa(session).ask(picture, "what colour is the circle?")`.

It needs numpy alone: a board that has no PyTorch asks likewise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mmtrt.errors import InputError, MeasurementError
from mmtrt.tensors import Array

__all__ = ["Answer", "Vqa"]

_END = "<end>"
_MATCHED = "matched"


class Running(Protocol):
    """What runs the model; `mmtrt.Session` on a bundle or a deployment does."""

    @property
    def labels(self) -> Mapping[str, Sequence[str]]:
        """Output -> names of its classes."""
        ...

    def feeds(self, raw: Mapping[str, Any], /) -> Mapping[str, Array]:
        """Make inputs of raw things."""
        ...

    def run(self, feeds: Mapping[str, Any], /) -> Mapping[str, Any]:
        """Return the outputs by name."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the model says: the answer and its probability, 0 to 1.

    `match` is the probability that the question fits the picture, and `phrase` the answer put in words; None where the
    model does not tell.
    """

    answer: str
    score: float
    match: float | None = None
    phrase: str | None = None

    def __str__(self) -> str:
        more = f": {self.phrase}" if self.phrase else ""
        doubt = "" if self.match is None or self.match >= 0.5 else f"; the question hardly fits ({self.match:.0%})"
        return f"{self.answer} ({self.score:.0%}){more}{doubt}"


class Vqa:
    """Asks a `vqa-*` or `dialogue` model; InputError where `session` runs none, or does not know its labels."""

    def __init__(self, session: Running) -> None:
        if "answer" not in session.labels:
            raise InputError(
                "the model has no names for the classes of an output 'answer'",
                fix="Open a bundle of a model that answers questions, zoo:vqa-coattention say, or a deployment of it.",
            )
        self._session = session

    def ask(self, image: Any, question: str, **further: Any) -> Answer:
        """Ask one question about one picture; `further` are the raw things that the model takes besides.

        InputError names what is wrong with them; MeasurementError where the model's answer holds NaN.
        """
        feeds = self._session.feeds({"image": image, "question": question, **further})
        told = self._session.run(feeds)
        labels = self._session.labels
        shares = {name: _shares(name, told[name]) for name in labels if name in told}
        if "answer" not in shares:
            raise InputError(f"the model has no output 'answer', only {', '.join(told)}")
        best = int(shares["answer"].argmax())
        knows = "match" in shares and _MATCHED in labels["match"]
        match = float(shares["match"][labels["match"].index(_MATCHED)]) if knows else None
        return Answer(
            answer=labels["answer"][best],
            score=float(shares["answer"][best]),
            match=match,
            phrase=_phrase(labels["generate"], shares["generate"]) if "generate" in shares else None,
        )


def _shares(name: str, logits: Any) -> npt.NDArray[np.float64]:
    """Probabilities along the last axis, of the first row of a batch."""
    values = np.asarray(logits, dtype=np.float64)[0]
    if not np.isfinite(values).all():
        raise MeasurementError(
            f"output {name!r} of the model is not finite", fix="Hold the model against its reference: `mmtrt check`."
        )
    grown = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(grown / grown.sum(axis=-1, keepdims=True))


def _phrase(words: Sequence[str], shares: npt.NDArray[np.float64]) -> str:
    said = [words[int(place)] for place in shares.argmax(axis=-1)]
    return " ".join(said[: said.index(_END)] if _END in said else said)
