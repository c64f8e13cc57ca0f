"""Hard cases: within the ranges, each once, the same each time, masks where they were."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtrt.parity.stress import KINDS, StressCase, stress_cases
from mmtrt.samples import Sample
from mmtrt.tensors import ModelSpec, TensorSpec, array_digest

SPEC = ModelSpec(
    inputs=(
        TensorSpec(name="image", dtype="float32", shape=("batch", 2, 3)),
        TensorSpec(name="ids", dtype="int64", shape=("batch", "text")),
        TensorSpec(name="mask", dtype="int64", shape=("batch", "text")),
    ),
    outputs=(),
    modalities={"image": ("image",), "text": ("ids", "mask")},
    ranges={"batch": (1, 4, 6), "text": (2, 5, 9)},
    limits={"ids": (1, 30)},
    masks={"mask": 0},
)


def sample(index: int, length: int = 5) -> Sample:
    rng = np.random.default_rng(index)
    mask = np.ones(length, np.int64)
    mask[length - 1 :] = index % 2
    return {
        "image": rng.standard_normal((2, 3)).astype(np.float32),
        "ids": np.where(mask, 7, 2) + 0 * rng.integers(0, 1, length),
        "mask": mask,
    }


SAMPLES = [sample(index, 2 + index) for index in range(8)]


def cases(spec: ModelSpec = SPEC, samples: Sequence[Sample] = SAMPLES, *kinds: str, **fields: Any) -> list[StressCase]:
    return list(stress_cases(spec, samples, kinds or KINDS, **fields))


def named(found: Sequence[StressCase]) -> list[tuple[str, str]]:
    return [(one.kind, one.name) for case in found for one in case.named]


def only(name: str, *kinds: str, **fields: Any) -> StressCase:
    (found,) = [case for case in cases(SPEC, SAMPLES, *kinds, **fields) if name in [one.name for one in case.named]]
    return found


def test_each_kind_has_its_cases_by_name() -> None:
    assert named(cases()) == [
        ("corner", "batch = 1, text = 2"),
        ("corner", "batch = 1, text = 9"),
        ("corner", "batch = 6, text = 2"),
        ("corner", "batch = 6, text = 9"),
        ("batch", "batch = 1"),
        ("batch", "batch = 6"),
        ("length", "text = 2"),
        ("length", "text = 9"),
        ("masked", "text"),
        ("zeroed", "image"),
        ("zeroed", "text"),
        ("constant", "image"),
        ("constant", "text"),
        ("extremes", "image from end to end"),
        ("extremes", "all image at its lowest"),
        ("extremes", "all image at its highest"),
        ("determinism", "run again"),
        ("batch-invariance", "alone and in a batch"),
    ]


def test_only_the_kinds_asked_for_are_made() -> None:
    assert {kind for kind, _ in named(cases(SPEC, SAMPLES, "masked", "batch"))} == {"masked", "batch"}
    assert list(stress_cases(SPEC, SAMPLES, ())) == []


def test_masked_hides_the_modality_and_touches_nothing_else() -> None:
    case, plain = only("text", "masked"), only("run again", "determinism")
    assert not case.feeds["mask"].any()
    assert np.array_equal(case.feeds["ids"], plain.feeds["ids"])
    assert np.array_equal(case.feeds["image"], plain.feeds["image"])


@pytest.mark.parametrize(("kind", "token"), [("zeroed", 1), ("constant", 7)])
def test_tokens_become_one_legal_value_and_the_mask_stays(kind: str, token: int) -> None:
    case, plain = only("text", kind), only("run again", "determinism")
    assert (case.feeds["ids"] == token).all()
    assert np.array_equal(case.feeds["mask"], plain.feeds["mask"])
    assert case.feeds["mask"].any()


def test_numbers_become_zeros_their_mean_and_the_ends_of_their_range() -> None:
    values = np.concatenate([s["image"].reshape(-1) for s in SAMPLES])
    assert (only("image", "zeroed").feeds["image"] == 0).all()
    assert np.allclose(only("image", "constant").feeds["image"], values.mean())
    low = only("all image at its lowest", "extremes")
    assert (low.feeds["image"] == values.min()).all()
    assert "8 samples at hand" in low.named[0].note
    high = only("all image at its highest", "extremes", calibrated={"image": (-9.0, 9.5)})
    assert (high.feeds["image"] == 9.5).all()
    assert "calibration" in high.named[0].note
    rows = only("image from end to end", "extremes", calibrated={"image": (-9.0, 9.5)}).feeds["image"]
    assert np.allclose(rows.min(axis=(1, 2)), -9)
    assert np.allclose(rows.max(axis=(1, 2)), 9.5)


def test_a_mask_that_nobody_told_of_is_not_filled() -> None:
    bare = ModelSpec(inputs=SPEC.inputs, outputs=())
    for case in cases(bare, SAMPLES, "zeroed", "constant", "extremes"):
        assert case.feeds["mask"].any()
    # Without a table, the lowest token that a sample has is legal.
    (zeroed,) = [c for c in cases(bare, SAMPLES, "zeroed") if c.named[0].name == "ids"]
    assert (zeroed.feeds["ids"] == 2).all()


def test_a_case_that_two_kinds_share_is_run_once_under_both_names() -> None:
    inputs = (TensorSpec(name="image", dtype="float32", shape=("batch", 2, 3)),)
    spec = ModelSpec(inputs=inputs, outputs=(), ranges={"batch": (1, 2, 4)})
    found = cases(spec, SAMPLES, "corner", "batch")
    assert [[one.kind for one in case.named] for case in found] == [["corner", "batch"], ["corner", "batch"]]


def test_a_model_of_fixed_shape_has_cases_too() -> None:
    inputs = (TensorSpec(name="x", dtype="float32", shape=(4, 3)),)
    found = cases(ModelSpec(inputs=inputs, outputs=()), [{"x": np.arange(3, dtype=np.float32)}])
    assert {kind for kind, _ in named(found)} == set(KINDS) - {"batch", "length", "masked"}
    assert {case.feeds["x"].shape for case in found} == {(4, 3)}
    (turned,) = [case for case in found if case.named[0].kind == "batch-invariance"]
    assert turned.how == "in another order"
    one = ModelSpec(inputs=(TensorSpec(name="x", dtype="float32", shape=(1, 3)),), outputs=())
    alone = cases(one, [{"x": np.arange(3, dtype=np.float32)}])
    assert "batch-invariance" not in {kind for kind, _ in named(alone)}


def test_many_sizes_have_their_ends_one_at_a_time_and_that_is_said() -> None:
    dims = [f"d{index}" for index in range(5)]
    spec = ModelSpec(
        inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", *dims)),),
        outputs=(),
        ranges={"batch": (1, 2, 3), **dict.fromkeys(dims, (1, 2, 3))},
    )
    found = cases(spec, [{"x": np.ones((2,) * 5, np.float32)}], "corner")
    assert len(found) == 2 + 2 * 6
    assert "6 sizes have 64 corners" in found[0].named[0].note


def test_a_batch_that_would_take_too_much_is_cut_and_that_is_said() -> None:
    row = 24 + 2 * 9 * 8
    found = cases(SPEC, SAMPLES, "corner", most_bytes=3 * row)
    largest = found[-1]
    assert largest.sizes == {"batch": 3, "text": 9}
    assert "6 rows" in largest.named[0].note
    assert "3 are run" in largest.named[0].note
    assert sum(array.nbytes for array in largest.feeds.values()) <= 3 * row
    # The smallest batch that the model takes is run whatever it takes.
    assert {case.sizes["batch"] for case in cases(SPEC, SAMPLES, "corner", most_bytes=1)} == {1}


def test_cases_are_made_one_at_a_time() -> None:
    held = [weakref.ref(case.feeds["image"]) for case in stress_cases(SPEC, SAMPLES, ("corner",))]
    gc.collect()
    assert [one() is None for one in held] == [True] * 4


spans = st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(0, 3)).map(
    lambda t: (t[0], t[0] + t[1], t[0] + t[1] + t[2])
)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(spans, min_size=1, max_size=5),
    batch=st.none() | spans,
    shared=st.booleans(),
    count=st.integers(1, 4),
    calibrated=st.booleans(),
)
def test_cases_lie_within_the_ranges_are_unique_and_the_same_each_time(
    sizes: list[tuple[int, int, int]],
    batch: tuple[int, int, int] | None,
    shared: bool,
    count: int,
    calibrated: bool,
) -> None:
    dims = [f"d{index}" for index in range(len(sizes))]
    first: int | str = "batch" if batch else 2
    second = dims[-1] if shared else 3
    spec = ModelSpec(
        inputs=(
            TensorSpec(name="x", dtype="float32", shape=(first, *dims)),
            TensorSpec(name="ids", dtype="int32", shape=(first, second)),
        ),
        outputs=(),
        modalities={"x": ("x",)},
        ranges={**dict(zip(dims, sizes, strict=True)), **({"batch": batch} if batch else {})},
        limits={"ids": (0, 5)},
    )
    rng = np.random.default_rng(count)
    usual = [span[1] for span in sizes]
    samples = [
        {
            "x": rng.standard_normal(usual).astype(np.float32),
            "ids": rng.integers(0, 6, usual[-1] if shared else 3).astype(np.int32),
        }
        for _ in range(count)
    ]
    told = {"x": (-3.0, 3.0)} if calibrated else None
    found = cases(spec, samples, calibrated=told)
    names = named(found)
    assert len(set(names)) == len(names)
    for case in found:
        for name, size in case.sizes.items():
            low, _, high = spec.ranges[name]
            assert low <= size <= high
        for tensor in spec.inputs:
            array = case.feeds[tensor.name]
            assert str(array.dtype) == tensor.dtype
            assert array.shape == tuple(d if isinstance(d, int) else case.sizes[d] for d in tensor.shape)
        assert case.feeds["ids"].min() >= 0
        assert case.feeds["ids"].max() <= 5
        assert np.isfinite(case.feeds["x"]).all()
    shapes = [tuple(case.sizes.items()) for case in found if case.named[0].kind in {"corner", "batch", "length"}]
    assert len(set(shapes)) == len(shapes)
    assert digests(cases(spec, samples, calibrated=told)) == digests(found)


def digests(found: Sequence[StressCase]) -> list[tuple[object, ...]]:
    return [(case.named, case.how, tuple(case.sizes.items()), array_digest(case.feeds)) for case in found]
