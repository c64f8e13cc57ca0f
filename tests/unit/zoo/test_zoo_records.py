"""Pictures, questions and records: answers are right, balanced, and can't be told without the record."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from mmtrt.zoo.data import records, words
from mmtrt.zoo.data.batches import BatchSize
from mmtrt.zoo.data.questions import NUMBERS
from mmtrt.zoo.data.records import KINDS, KNOWING, MATERIALS, OWNERS, UNKNOWN, RecordEvent, event, samples
from mmtrt.zoo.data.scenes import COLOURS, SHAPES, SIZES, Thing


@pytest.fixture(scope="module")
def drawn() -> list[RecordEvent]:
    return [event("test", i) for i in range(1400)]


def meant(one: RecordEvent) -> Thing:
    """The thing that "the small red thing" means, looked up anew."""
    told = set(one.question.words) & {*SIZES, *COLOURS}
    fits = [t for t in one.scene.things if told <= {SIZES[t.size], COLOURS[t.colour]}]
    assert len(fits) == 1
    return fits[0]


def fact(one: RecordEvent, row: int) -> str:
    record = one.record
    if not record.known[row]:
        return UNKNOWN
    return {
        "price": NUMBERS[record.prices[row]],
        "material": MATERIALS[record.materials[row]],
        "owner": OWNERS[record.owners[row]],
    }[one.question.kind]


def test_facts_are_those_of_the_shape_in_the_picture(drawn: list[RecordEvent]) -> None:
    for one in drawn:
        if one.question.kind in ("price", "material", "owner"):
            assert not set(one.question.words) & set(SHAPES)
            assert one.question.answer == fact(one, meant(one).shape)


def test_the_dearest_is_the_dearest_of_those_in_the_picture(drawn: list[RecordEvent]) -> None:
    elsewhere = 0
    for one in drawn:
        if one.question.kind != "dearest":
            continue
        there, prices = {t.shape for t in one.scene.things}, one.record.prices
        if not all(one.record.known[i] for i in there):
            assert one.question.answer == UNKNOWN
            continue
        assert one.question.answer == SHAPES[max(there, key=lambda i: prices[i])]
        elsewhere += max(prices) > max(prices[i] for i in there)
    assert elsewhere > 20


def test_answers_are_balanced_and_some_are_unknown(drawn: list[RecordEvent]) -> None:
    for kind in KNOWING:
        answers = Counter(e.question.answer for e in drawn if e.question.kind == kind)
        unknown = answers.pop(UNKNOWN)
        total = answers.total()
        assert 0.06 < unknown / (total + unknown) < 0.2
        assert max(answers.values()) / total < 1.5 / len(answers)


def test_the_same_picture_and_question_get_other_answers_with_another_record() -> None:
    size = BatchSize(scenes=60, questions=20)
    batch = records.training_batch(0, 0, size)
    seen: dict[tuple[int, bytes], set[int]] = {}
    for row, ids in enumerate(batch["ids"]):
        seen.setdefault((row // size.questions, ids.tobytes()), set()).add(int(batch["answer"][row]))
    assert sum(len(answers) > 1 for answers in seen.values()) > 20


def test_no_scene_is_in_two_splits() -> None:
    digests = [{event(s, i).scene.digest() for i in range(200)} for s in ("validation", "calibration", "test")]
    assert all(len(one) == 200 for one in digests)
    assert not digests[0] & digests[1]
    assert not digests[0] & digests[2]
    assert not digests[1] & digests[2]


def test_samples_have_the_declared_shapes_and_missing_modalities() -> None:
    missing = Counter()
    for sample in samples("calibration", 96):
        length = len(sample["ids"])
        assert words.TEXT_MIN <= length <= words.TEXT_MAX
        assert {k: (v.shape, v.dtype.name) for k, v in sample.items()} == {
            "image": ((3, 64, 64), "float32"),
            "ids": ((length,), "int64"),
            "mask": ((length,), "int64"),
            "knowledge": (records.RECORD_SHAPE, "float32"),
            "known": ((len(SHAPES),), "int64"),
            "label.answer": ((), "int64"),
        }
        assert (sample["knowledge"][sample["known"] == 0] == 0).all()
        there = sample["knowledge"][sample["known"] == 1]
        assert set(there[:, 0]) <= {-1, -0.5, 0, 0.5, 1}
        assert (there[:, 1:].sum(axis=1) == 2).all()
        missing["text"] += not sample["mask"].any()
        missing["padded"] += bool(sample["mask"].any() and not sample["mask"].all())
        missing["record"] += not sample["known"].any()
        assert (sample["label.answer"] < 0) == (not sample["mask"].any() or not sample["known"].any())
    assert missing["text"] == 6
    assert missing["record"] >= 6
    assert 8 <= missing["padded"] <= 12


def test_kinds_take_turns_and_events_are_the_same_each_time(drawn: list[RecordEvent]) -> None:
    assert [e.question.kind for e in drawn[:7]] == list(KINDS)
    assert [event("test", i) for i in range(20)] == drawn[:20]


def test_a_batch_is_the_events_it_collates(drawn: list[RecordEvent]) -> None:
    batch = records.collate(drawn[:9])
    for row, one in enumerate(drawn[:9]):
        sample = records.to_sample(one)
        length = len(sample["ids"])
        np.testing.assert_array_equal(batch["ids"][row, :length], sample["ids"])
        assert batch["mask"][row].sum() == length
        np.testing.assert_array_equal(batch["knowledge"][row], sample["knowledge"])
        assert batch["answer"][row] == sample["label.answer"]
