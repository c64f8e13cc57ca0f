"""Pictures and words through the preprocessing give the very numbers that the zoo's own pipeline feeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtrt.errors import InputError
from mmtrt.preprocess import Preprocessing, parse_preprocessing
from mmtrt.zoo import preprocessing
from mmtrt.zoo.data import batches, dialogues, events, records, retrieval, words
from mmtrt.zoo.data.scenes import Scene, render, sample_scene

SPLITS = st.sampled_from(["train", "validation", "calibration", "test"])
SEEDS = st.integers(0, 2**31)


def picture(scene: Scene) -> np.ndarray:
    """A picture as a camera or a file gives it: channels last."""
    return np.ascontiguousarray(render(scene).transpose(1, 2, 0))


def same(told: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> None:
    """Equal to the last bit, and nothing else but labels."""
    assert told.keys() == {name for name in wanted if not name.startswith("label.")}
    for name, array in told.items():
        assert array.dtype == wanted[name].dtype, name
        np.testing.assert_array_equal(array, wanted[name][None], strict=True)


def said(one: Any) -> str:
    return " ".join(one.question.words)


@settings(max_examples=25, deadline=None)
@given(SPLITS, SEEDS, st.sampled_from(["{}", "{}?", "  {} ?", "Please: {}."]))
def test_a_question_on_a_scene(split: str, index: int, wording: str) -> None:
    one = events.event(split, index % 10_000, seed=index)
    # A word of politeness that the vocabulary has makes the sentence longer, and some are as long as may be.
    if "Please" in wording and len(one.question.words) + 2 > words.TEXT_MAX:
        wording = "{}!"
    told = preprocessing.VQA.feeds(image=picture(one.scene), question=wording.format(said(one).upper()))

    wanted = events.to_sample(one)
    if "Please" in wording:
        ids = words.encode_question(("please", *one.question.words))
        wanted |= {"ids": ids, "mask": np.ones_like(ids)}
    same(told, wanted)


@settings(max_examples=10, deadline=None)
@given(SPLITS, SEEDS)
def test_a_question_with_a_record(split: str, seed: int) -> None:
    one = records.event(split, seed % 1000, seed)
    facts, known = records.encode_record(one.record)
    told = preprocessing.KNOWLEDGE.feeds(image=picture(one.scene), question=said(one), knowledge=facts, known=known)

    same(told, records.to_sample(one))


@settings(max_examples=10, deadline=None)
@given(SPLITS, SEEDS)
def test_a_question_after_another(split: str, seed: int) -> None:
    one = dialogues.event(split, seed % 1000, seed)
    before = one.before
    history = None if before is None else " ".join((*before.words, str(before.answer)))
    told = preprocessing.DIALOGUE.feeds(image=picture(one.scene), question=said(one), history=history)

    same(told, dialogues.to_sample(one))


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_a_caption(seed: int) -> None:
    scene = sample_scene(np.random.default_rng(seed))
    caption = " ".join(retrieval.describe(scene, np.random.default_rng(seed)))
    wanted = retrieval.draw(np.random.default_rng(seed))
    rng = np.random.default_rng(seed)
    drawn = sample_scene(rng)
    told = preprocessing.RETRIEVAL.feeds(image=picture(drawn), caption=" ".join(retrieval.describe(drawn, rng)))

    same(told, wanted)
    assert preprocessing.RETRIEVAL.feeds(image=picture(scene), caption=caption)["ids"].shape[0] == 1


def test_a_batch_is_what_training_collates() -> None:
    asked = [events.event("test", index) for index in range(6)]
    told = preprocessing.VQA.feeds(image=[picture(one.scene) for one in asked], question=[said(one) for one in asked])
    collated = batches.collate([one.question for one in asked])
    longest = max(len(one.question.words) for one in asked) + 1

    np.testing.assert_array_equal(told["ids"], collated["ids"][:, :longest])
    np.testing.assert_array_equal(told["mask"], collated["mask"][:, :longest])
    np.testing.assert_array_equal(told["image"], np.stack([events.to_sample(one)["image"] for one in asked]))


def test_what_is_missing_is_what_calibration_takes_away() -> None:
    blank = events.without_text(events.to_sample(events.event("test", 0)))
    told = preprocessing.DIALOGUE.feeds(image=np.zeros((64, 64, 3), np.uint8), question="what shape is it")
    without = preprocessing.KNOWLEDGE.feeds(image=np.zeros((64, 64, 3), np.uint8), question="whose is the circle")

    np.testing.assert_array_equal(told["history_ids"], blank["ids"][None], strict=True)
    np.testing.assert_array_equal(told["history_mask"], blank["mask"][None], strict=True)
    assert not without["knowledge"].any()
    assert not without["known"].any()


@pytest.mark.parametrize("name", ["VQA", "RETRIEVAL", "DIALOGUE", "KNOWLEDGE"])
def test_each_is_read_back_as_it_was_written(name: str) -> None:
    one: Preprocessing = getattr(preprocessing, name)
    again = parse_preprocessing(one.to_json(), name)

    assert again == one
    assert again.digest == one.digest
    assert again.to_bytes() == one.to_bytes()


@pytest.mark.parametrize("word", ["<pad>", "<start>", "cube"])
def test_a_word_outside_the_vocabulary_is_told(word: str) -> None:
    with pytest.raises(InputError, match=f"'question' holds {word!r}, which the model's vocabulary lacks"):
        preprocessing.VQA.feeds(image=np.zeros((64, 64, 3), np.uint8), question=f"what colour is the {word}?")


def test_every_sample_of_the_sets_is_of_the_shapes_that_are_told() -> None:
    makers: dict[str, Callable[[], Any]] = {
        "VQA": events.samples,
        "KNOWLEDGE": records.samples,
        "DIALOGUE": dialogues.samples,
        "RETRIEVAL": retrieval.samples,
    }
    for name, samples in makers.items():
        told = {spec.name: spec for spec in getattr(preprocessing, name).inputs}
        for sample in islice(samples(), 16):
            assert told.keys() == {key for key in sample if not key.startswith("label.")}
            for key, spec in told.items():
                fixed = [size for size in spec.shape if isinstance(size, int)]
                assert str(sample[key].dtype) == spec.dtype
                assert not fixed or sample[key].shape == spec.shape
