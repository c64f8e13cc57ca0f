"""Dialogues: the second question's answer is right, balanced, and can't be told without the first."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from mmtrt.zoo.data import dialogues, words
from mmtrt.zoo.data.batches import BatchSize
from mmtrt.zoo.data.dialogues import KINDS, REFERRING, Dialogue, event, samples
from mmtrt.zoo.data.questions import NUMBERS
from mmtrt.zoo.data.scenes import COLOURS, SHAPES, SIZES, Thing

VALUES = (SIZES, COLOURS, SHAPES)
ATTRIBUTES = ("size", "colour", "shape")


@pytest.fixture(scope="module")
def drawn() -> list[Dialogue]:
    return [event("test", i) for i in range(1600)]


def names(thing: Thing) -> tuple[str, ...]:
    return tuple(v[i] for v, i in zip(VALUES, thing.attributes, strict=True))


def meant(one: Dialogue) -> Thing:
    """The thing that the first question was about, looked up anew from its words."""
    assert one.before is not None
    told = set(one.before.words) & {*SIZES, *COLOURS, *SHAPES}
    if {"small", "or", "large"} <= set(one.before.words):  # "is the {a} small or large"
        told -= set(SIZES)
    fits = [t for t in one.scene.things if told <= set(names(t))]
    assert len(fits) == 1
    return fits[0]


def test_it_is_the_thing_that_was_asked_about(drawn: list[Dialogue]) -> None:
    for one in drawn:
        kind, thing = one.question.kind, meant(one) if one.question.kind in REFERRING else None
        if thing is None:
            continue
        assert one.before.answer == names(thing)[ATTRIBUTES.index(one.before.kind)]
        if kind == "its side":
            sides = {"left": thing.x < 32, "right": thing.x > 32, "above": thing.y < 32, "below": thing.y > 32}
            assert sides[one.question.answer]
        elif kind == "as many":
            alike = sum(one.before.answer in names(t) for t in one.scene.things)
            assert one.question.answer == NUMBERS[alike]
            assert one.before.kind in one.question.words
        else:
            asked = ATTRIBUTES.index(kind.removeprefix("its "))
            assert one.question.answer == names(thing)[asked]
            assert one.question.answer not in one.before.words or "or" in one.before.words


def test_the_second_question_alone_names_no_thing(drawn: list[Dialogue]) -> None:
    said = {w for e in drawn if e.question.kind in REFERRING for w in e.question.words}
    assert said & {*COLOURS, *SHAPES} == set()
    assert {"it", "that"} < said


def test_answers_are_balanced(drawn: list[Dialogue]) -> None:
    for kind in KINDS:
        answers = Counter(e.question.answer for e in drawn if e.question.kind == kind)
        assert max(answers.values()) / answers.total() < 1.6 / len(answers)


def test_some_that_stand_alone_have_no_history_and_the_others_all_have(drawn: list[Dialogue]) -> None:
    assert all(e.before is not None for e in drawn if e.question.kind in REFERRING)
    alone = [e.before is None for e in drawn if e.question.kind not in REFERRING]
    assert 0.4 < np.mean(alone) < 0.7


def test_no_scene_is_in_two_splits() -> None:
    digests = [{event(s, i).scene.digest() for i in range(200)} for s in ("validation", "calibration", "test")]
    assert all(len(one) >= 199 for one in digests)
    assert not digests[0] & digests[1]
    assert not digests[0] & digests[2]
    assert not digests[1] & digests[2]


def test_samples_have_the_declared_shapes_and_missing_modalities() -> None:
    missing: Counter[str] = Counter()
    for sample in samples("calibration", 96):
        for prefix in ("", "history_"):
            length = len(sample[f"{prefix}ids"])
            assert words.TEXT_MIN <= length <= words.TEXT_MAX
            assert sample[f"{prefix}mask"].shape == (length,)
            assert all(sample[f"{prefix}{k}"].dtype == np.int64 for k in ("ids", "mask"))
            missing[f"{prefix}text"] += not sample[f"{prefix}mask"].any()
            missing[f"{prefix}padded"] += bool(sample[f"{prefix}mask"].any() and not sample[f"{prefix}mask"].all())
        assert sample["image"].shape == (3, 64, 64)
        assert sample["label.answer"].shape == ()
        assert sample["mask"].any() or sample["label.answer"] < 0
    assert missing["text"] == 6
    assert missing["history_text"] > 12
    assert missing["padded"] > 6
    assert missing["history_padded"] > 6


def test_a_batch_is_the_events_it_collates(drawn: list[Dialogue]) -> None:
    batch = dialogues.collate(drawn[:16])
    for row, one in enumerate(drawn[:16]):
        sample = dialogues.to_sample(one)
        for name in ("ids", "mask", "history_ids", "history_mask"):
            np.testing.assert_array_equal(batch[name][row, : len(sample[name])], sample[name])
            assert not batch[name][row, len(sample[name]) :].any()
        assert batch["answer"][row] == sample["label.answer"]


def test_a_training_batch_follows_from_seed_and_step() -> None:
    size = BatchSize(scenes=2, questions=3)
    first, again, other = (dialogues.training_batch(5, step, size) for step in (1, 1, 2))
    assert first["image"].shape == (2, 3, 64, 64)
    assert first["history_ids"].shape == (6, words.TEXT_MAX)
    assert all(np.array_equal(first[k], again[k]) for k in first)
    assert not np.array_equal(first["image"], other["image"])
