"""What the data of retrieval, audio-text, recommend and medical have in common."""

from __future__ import annotations

import hashlib
from types import ModuleType

import numpy as np
import pytest

from mmtrt.zoo.data import audio_text, medical, recommend, retrieval
from mmtrt.zoo.data.batches import BatchSize
from mmtrt.zoo.data.collating import chunks, collate, padded
from mmtrt.zoo.data.events import Sample

MODULES = pytest.mark.parametrize(
    "module", [retrieval, audio_text, recommend, medical], ids=lambda m: m.__name__.rpartition(".")[2]
)


def digest(sample: Sample) -> str:
    """Of the largest array: the picture, or the sound."""
    return hashlib.sha256(max(sample.values(), key=lambda a: a.size).tobytes()).hexdigest()


@MODULES
def test_events_follow_from_split_and_number_alone(module: ModuleType) -> None:
    once, again = (list(module.samples("test", 5)) for _ in range(2))
    for one, other in zip(once, again, strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)
        assert all(np.isfinite(value).all() for value in one.values())


@MODULES
def test_no_two_splits_share_an_event(module: ModuleType) -> None:
    seen: dict[str, str] = {}
    for split in ("validation", "calibration", "test"):
        for sample in module.samples(split, 40):
            largest = max(sample.values(), key=lambda a: a.size)
            if largest.any():
                assert seen.setdefault(digest(sample), split) == split
    batch = module.training_batch(0, 0, BatchSize(scenes=40, questions=1))
    rows = [{name: value[i] for name, value in batch.items()} for i in range(40)]
    assert not {digest(row) for row in rows} & seen.keys()


@MODULES
def test_a_training_batch_follows_from_seed_and_step(module: ModuleType) -> None:
    size = BatchSize(scenes=6, questions=1)
    first, again, other = (module.training_batch(0, step, size) for step in (0, 0, 1))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(not np.array_equal(first[name], other[name]) for name in first)
    assert {len(value) for value in first.values()} == {6}
    assert all(first[name].shape[-1] == length for name, length in module.LENGTHS.items())


@MODULES
def test_calibration_holds_what_is_short_padded_and_missing_and_the_test_holds_it_not(module: ModuleType) -> None:
    drawn = list(module.samples("calibration", 64))
    inputs = [name for name in drawn[0] if not name.startswith("label.")]
    assert {name for name in inputs for s in drawn if not s[name].any()} >= {
        n for n in inputs if "mask" in n or n == "image"
    }
    for mask in (n for n in module.LENGTHS if n.endswith("mask")):
        assert any(s[mask].any() and not s[mask].all() for s in drawn), "padded"
        assert len({s[mask].shape[-1] for s in drawn}) > 2, "of several lengths"
    for sample in module.samples("test", 64):
        assert all(sample[name].any() for name in inputs)
        assert all((value >= 0).all() for name, value in sample.items() if name.startswith("label."))


def test_padding_fills_the_last_axis_and_refuses_to_cut() -> None:
    sample: Sample = {"a": np.ones((1, 2, 3), np.float32), "b": np.ones(2, np.int64), "c": np.ones(4, np.int64)}
    filled = padded(sample, {"a": 5, "b": 2})
    assert filled["a"].shape == (1, 2, 5)
    assert filled["a"][..., 3:].sum() == 0
    assert filled["a"].dtype == np.float32
    assert filled["c"] is sample["c"]
    with pytest.raises(ValueError, match="c is 4 long, more than 3"):
        padded(sample, {"c": 3})
    batch = collate([sample, {**sample, "b": np.ones(1, np.int64)}], {"b": 3})
    assert batch["b"].tolist() == [[1, 1, 0], [1, 0, 0]]


def test_chunks_leave_nothing_out() -> None:
    drawn = list(medical.samples("test", 5))
    assert [len(chunk) for chunk in chunks(drawn, 2)] == [2, 2, 1]
