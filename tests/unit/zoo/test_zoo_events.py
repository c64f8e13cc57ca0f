from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtrt import zoo
from mmtrt.zoo.data import events, words
from mmtrt.zoo.data.batches import BatchSize, cell_labels, training_batch
from mmtrt.zoo.data.events import SPLITS, event, samples
from mmtrt.zoo.data.scenes import sample_scene


def test_no_scene_is_in_two_splits() -> None:
    digests = {split: {event(split, i).scene.digest() for i in range(500)} for split in SPLITS}
    for split in ("train", "pictures"):
        digests[f"{split} batches"] = batch_digests(split, steps=20)
    for split, mine in digests.items():
        assert len(mine) >= 499, split
        for other, theirs in digests.items():
            assert other == split or not mine & theirs, (split, other)


def batch_digests(split: str, steps: int) -> set[str]:
    found = set()
    for step in range(steps):
        rng = events.event_rng(split, 0, step)
        found |= {sample_scene(rng).digest() for _ in range(32)}
    return found


def test_the_splits_have_seed_words_of_their_own() -> None:
    assert set(SPLITS) == {"pictures", "train", "validation", "calibration", "test"}
    assert len(set(SPLITS.values())) == len(SPLITS)


def test_an_unknown_split_is_an_error() -> None:
    with pytest.raises(KeyError, match="tset"):
        next(iter(samples("tset", 1)))


def test_samples_are_the_same_each_time_and_other_with_another_seed() -> None:
    first, again = list(samples("test", 20)), list(samples("test", 20))
    for one, two in zip(first, again, strict=True):
        assert one.keys() == two.keys()
        for key, value in one.items():
            np.testing.assert_array_equal(value, two[key])
    other = list(samples("test", 20, seed=1))
    assert not any(np.array_equal(a["image"], b["image"]) for a, b in zip(first, other, strict=True))


def test_a_longer_set_begins_with_the_shorter_one() -> None:
    short, long = list(samples("calibration", 10)), list(samples("calibration", 20))
    for one, two in zip(short, long, strict=False):
        np.testing.assert_array_equal(one["image"], two["image"])
        np.testing.assert_array_equal(one["ids"], two["ids"])


@pytest.mark.parametrize("split", ["calibration", "test", "validation"])
def test_samples_have_the_declared_shapes_and_types(split: str) -> None:
    for sample in samples(split, 64):
        length = len(sample["ids"])
        assert words.TEXT_MIN <= length <= words.TEXT_MAX
        shapes = {k: (v.shape, v.dtype.name) for k, v in sample.items()}
        assert shapes == {
            "image": ((3, 64, 64), "float32"),
            "ids": ((length,), "int64"),
            "mask": ((length,), "int64"),
            "label.answer": ((), "int64"),
            "label.match": ((), "int64"),
            "label.generate": ((words.PHRASE_LENGTH,), "int64"),
        }
        assert np.isfinite(sample["image"]).all()
        assert set(np.unique(sample["mask"])) <= {0, 1}


def test_calibration_holds_the_declared_shares_of_padded_and_missing_texts() -> None:
    drawn = list(samples("calibration", 160))
    missing = [s for s in drawn if not s["mask"].any()]
    padded = [s for s in drawn if s["mask"].any() and not s["mask"].all()]
    assert len(missing) == 160 // events.MISSING_EVERY
    # A question of 16 tokens has no room for padding.
    assert 160 // events.PADDED_EVERY - 3 <= len(padded) <= 160 // events.PADDED_EVERY
    for sample in missing:
        assert all((sample[k] == words.IGNORED).all() for k in sample if k.startswith("label."))


def test_the_other_splits_hold_neither_padding_nor_missing_text() -> None:
    assert all(s["mask"].all() for split in ("test", "validation") for s in samples(split, 100))


def test_one_in_five_is_unmatched_and_has_no_answer() -> None:
    drawn = list(samples("test", 500))
    unmatched = [s for s in drawn if s["label.match"] == 0]
    assert len(unmatched) == 100
    for sample in drawn:
        answered = sample["label.match"] == 1
        assert (sample["label.answer"] >= 0) == answered
        assert (sample["label.generate"] >= 0).all() == answered


@given(st.integers(0, 10_000), st.integers(0, words.TEXT_MAX))
@settings(max_examples=60, deadline=None)
def test_padding_keeps_the_words_and_masks_the_rest(index: int, extra: int) -> None:
    sample = events.to_sample(event("calibration", index))
    length = len(sample["ids"])
    longer = events.padded(sample, length + extra)
    np.testing.assert_array_equal(longer["ids"][:length], sample["ids"])
    assert longer["mask"].tolist() == [1] * length + [0] * extra
    assert longer["ids"][length:].tolist() == [words.PAD] * extra
    assert sample["ids"].shape == (length,)


def test_padding_to_less_than_the_words_is_an_error() -> None:
    sample = events.to_sample(event("calibration", 0))
    with pytest.raises(ValueError, match="negative"):
        events.padded(sample, 3)


@given(st.integers(0, 1000), st.integers(1, 3), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_a_training_batch_follows_from_seed_and_step(step: int, scenes: int, questions: int) -> None:
    size = BatchSize(scenes=scenes, questions=questions)
    first, again, next_one = (training_batch(5, s, size) for s in (step, step, step + 1))
    pairs = scenes * questions
    assert {k: v.shape for k, v in first.items()} == {
        "image": (scenes, 3, 64, 64),
        "ids": (pairs, words.TEXT_MAX),
        "mask": (pairs, words.TEXT_MAX),
        "answer": (pairs,),
        "match": (pairs,),
        "generate": (pairs, words.PHRASE_LENGTH),
    }
    assert all(np.array_equal(first[k], again[k]) for k in first)
    assert not np.array_equal(first["image"], next_one["image"])
    lengths = first["mask"].sum(axis=1)
    assert (first["mask"] == (np.arange(words.TEXT_MAX) < lengths[:, None])).all()
    assert ((first["ids"] == words.PAD) == (first["mask"] == 0)).all()
    assert ((first["answer"] == words.IGNORED) == (first["match"] == 0)).all()


def test_cells_name_the_things_whose_centres_they_hold() -> None:
    for index in range(50):
        scene = event("train", index).scene
        cells = cell_labels(scene)
        assert cells.shape == (64, 3)
        filled = {(i // 8, i % 8): tuple(c) for i, c in enumerate(cells.tolist()) if c != [-1, -1, -1]}
        wanted = {(int(t.y // 8), int(t.x // 8)): t.attributes for t in scene.things}
        assert filled == wanted


def test_the_registry_names_factories() -> None:
    assert {"vqa-coattention", "vqa-early", "vqa-r101-bert", "dialogue"} <= set(zoo.names())
    assert list(zoo.names()) == sorted(zoo.REGISTRY)
    assert set(zoo.TRAINED) <= set(zoo.names())
    assert all(target.endswith(":LESSON") for target in zoo.TRAINED.values())
    assert all(target.count(":") == 1 for target in zoo.REGISTRY.values())


def test_data_and_registry_load_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; "
        "import mmtrt.zoo, mmtrt.zoo.data.batches, mmtrt.zoo.data.events, mmtrt.zoo.data.words; "
        "next(iter(mmtrt.zoo.data.events.samples('test', 1)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
