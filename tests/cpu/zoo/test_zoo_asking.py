"""The zoo's trained models are asked with pictures and words, and answer as they do on their own data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from mmtrt.errors import InputError, MeasurementError
from mmtrt.export.sources import Source, load_source
from mmtrt.zoo.asking import Answer, Vqa
from mmtrt.zoo.data import events, records
from mmtrt.zoo.data.scenes import render


class Eager:
    """Runs a source in PyTorch, as a session runs a bundle of it."""

    def __init__(self, source: Source) -> None:
        assert source.preprocessing is not None
        assert source.outputs is not None
        self.source, self.labels, self.preprocessing = source, source.labels, source.preprocessing
        self.outputs = source.outputs
        self.fed: Mapping[str, np.ndarray] = {}

    def feeds(self, raw: Mapping[str, Any], /) -> dict[str, np.ndarray]:
        return self.preprocessing.feeds(raw)

    def run(self, feeds: Mapping[str, Any], /) -> dict[str, np.ndarray]:
        self.fed = feeds
        with torch.inference_mode():
            told = self.source.module(**{name: torch.from_numpy(array) for name, array in feeds.items()})
        told = told if isinstance(told, tuple) else (told,)
        return {name: array.numpy() for name, array in zip(self.outputs, told, strict=True)}


def picture(scene: Any) -> np.ndarray:
    return render(scene).transpose(1, 2, 0)


def test_questions_on_pictures_are_answered() -> None:
    eager = Eager(load_source("zoo:vqa-coattention"))
    vqa = Vqa(eager)
    right, fits, phrases = [], [], []
    for index in range(60):
        one = events.event("test", index)
        told = vqa.ask(picture(one.scene), " ".join(one.question.words).capitalize() + "?")
        np.testing.assert_array_equal(eager.fed["image"][0], events.to_sample(one)["image"])
        assert told.match is not None
        fits.append((told.match >= 0.5) == one.question.matched)
        if one.question.matched:
            right.append(told.answer == one.question.answer)
            phrases.append(told.phrase == " ".join(one.question.phrase))
        assert 0 < told.score <= 1
    # On thousands its accuracy is higher than 0.95: a swapped channel, a shifted word, would leave a third of that.
    assert np.mean(right) > 0.85
    assert np.mean(fits) > 0.85
    assert np.mean(phrases) > 0.7


def test_a_record_is_asked_too() -> None:
    vqa = Vqa(Eager(load_source("zoo:vqa-knowledge")))
    right = []
    for index in range(40):
        one = records.event("test", index)
        facts, known = records.encode_record(one.record)
        told = vqa.ask(picture(one.scene), " ".join(one.question.words), knowledge=facts, known=known)
        right.append(told.answer == one.question.answer)
        assert told.match is None
        assert told.phrase is None
    assert np.mean(right) > 0.7


class Fixed:
    """Says the same of everything."""

    def __init__(self, **outputs: list[Any]) -> None:
        self.outputs = outputs
        self.labels = {
            "answer": ["yes", "no"],
            "match": ["unmatched", "matched"],
            "generate": ["<pad>", "<end>", "a", "circle"],
        }

    def feeds(self, raw: Mapping[str, Any], /) -> dict[str, np.ndarray]:
        return {name: np.zeros(1) for name in raw}

    def run(self, feeds: Mapping[str, Any], /) -> dict[str, np.ndarray]:
        assert feeds.keys() == {"image", "question"}
        return {name: np.array([value], dtype=np.float32) for name, value in self.outputs.items()}


def test_logits_become_names_and_probabilities() -> None:
    words = np.eye(4)[[2, 3, 1, 0, 0]].tolist()
    told = Vqa(Fixed(answer=[0.0, np.log(3)], match=[np.log(4), 0.0], generate=words)).ask(None, "")
    assert (told.answer, told.phrase) == ("no", "a circle")
    assert told.score == pytest.approx(0.75)
    assert told.match == pytest.approx(0.2)
    assert str(told) == "no (75%): a circle; the question hardly fits (20%)"
    assert str(Answer(answer="no", score=0.75)) == "no (75%)"


def test_an_answer_that_is_no_number_is_none() -> None:
    with pytest.raises(MeasurementError, match="'answer' of the model is not finite"):
        Vqa(Fixed(answer=[0.0, np.nan])).ask(None, "")


def test_what_does_not_answer_is_told() -> None:
    nameless = Fixed(answer=[0.0, 1.0])
    nameless.labels = {}
    with pytest.raises(InputError, match="no names for the classes of an output 'answer'"):
        Vqa(nameless)
    with pytest.raises(InputError, match="no output 'answer', only match"):
        Vqa(Fixed(match=[0.0, 1.0])).ask(None, "")
