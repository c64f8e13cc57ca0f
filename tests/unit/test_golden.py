"""Which golden samples a bundle carries."""

from __future__ import annotations

import numpy as np
import pytest

from mmtrt.pipeline.golden import pick_golden, sizes_of
from mmtrt.tensors import ModelSpec, TensorSpec

SPEC = ModelSpec(
    inputs=(
        TensorSpec(name="ids", dtype="int64", shape=("batch", "text")),
        TensorSpec(name="boxes", dtype="float32", shape=("batch", "regions", 4)),
    ),
    outputs=(),
    ranges={"batch": (1, 2, 8), "text": (2, 5, 16), "regions": (1, 8, 36)},
)


def test_sizes_are_told_without_the_batch() -> None:
    assert sizes_of({"ids": (7,), "boxes": (3, 4), "label.answer": ()}, SPEC) == {"text": 7, "regions": 3}


@pytest.mark.parametrize("seed", range(20))
def test_each_size_is_there_at_its_ends_and_the_usual_shape_too(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = [
        {"text": int(rng.integers(2, 17)), "regions": int(rng.integers(1, 37))} for _ in range(rng.integers(6, 30))
    ]
    usual = {"text": 5, "regions": 8}
    sizes.insert(int(rng.integers(len(sizes))), usual)
    picked = pick_golden(sizes, SPEC, 5)
    assert picked == sorted(set(picked))
    assert len(picked) == 5
    assert picked == pick_golden(sizes, SPEC, 5)
    ours = [sizes[index] for index in picked]
    assert usual in ours
    for name in ("text", "regions"):
        there, kept = ([row[name] for row in rows] for rows in (sizes, ours))
        assert (min(kept), max(kept)) == (min(there), max(there))


def test_without_the_usual_shape_it_is_the_nearest() -> None:
    sizes = [{"text": 16, "regions": 8}, {"text": 5, "regions": 30}, {"text": 6, "regions": 9}]
    assert pick_golden(sizes, SPEC, 1) == [2]


def test_few_are_the_usual_and_the_largest_first_and_many_are_all() -> None:
    sizes = [{"text": 4, "regions": 8}, {"text": 16, "regions": 8}, {"text": 2, "regions": 8}]
    assert pick_golden(sizes, SPEC, 1) == [0]
    assert pick_golden(sizes, SPEC, 2) == [0, 1]
    assert pick_golden(sizes, SPEC, 9) == [0, 1, 2]
    assert pick_golden([{}, {}, {}], SPEC, 2) == [0, 1]
