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
def test_each_size_is_there_at_its_ends_and_near_the_usual(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = [
        {"text": int(rng.integers(2, 17)), "regions": int(rng.integers(1, 37))} for _ in range(rng.integers(6, 30))
    ]
    picked = pick_golden(sizes, SPEC, 6)
    assert picked == sorted(set(picked))
    assert len(picked) == 6
    assert picked == pick_golden(sizes, SPEC, 6)
    for name in ("text", "regions"):
        there, ours = ([row[name] for row in rows] for rows in (sizes, [sizes[index] for index in picked]))
        usual = SPEC.ranges[name][1]
        assert (min(ours), max(ours)) == (min(there), max(there))
        assert min(abs(size - usual) for size in ours) == min(abs(size - usual) for size in there)


def test_few_are_the_largest_first_and_many_are_all() -> None:
    sizes = [{"text": 4, "regions": 8}, {"text": 16, "regions": 8}, {"text": 2, "regions": 8}]
    assert pick_golden(sizes, SPEC, 1) == [1]
    assert pick_golden(sizes, SPEC, 2) == [1, 2]
    assert pick_golden(sizes, SPEC, 9) == [0, 1, 2]
    assert pick_golden([{}, {}, {}], SPEC, 2) == [0, 1]
