from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmtrt.errors import SampleError
from mmtrt.samples import Batch, Sample, batches, largest_batch, shapes_profile
from mmtrt.tensors import Array, ModelSpec, TensorSpec


def spec_of(batch: int | str = "batch") -> ModelSpec:
    return ModelSpec(
        inputs=(
            TensorSpec(name="image", dtype="float32", shape=(batch, 2)),
            TensorSpec(name="ids", dtype="int64", shape=(batch, "text")),
        ),
        outputs=(),
    )


def sample(index: int, length: int) -> dict[str, Array]:
    """Each input and the label tell which sample they are of."""
    return {
        "image": np.full(2, index, np.float32),
        "ids": np.full(length, index),
        "label.answer": np.asarray(index),
        "output.answer": np.zeros(5),
    }


def samples(lengths: list[int]) -> list[dict[str, Array]]:
    return [sample(index, length) for index, length in enumerate(lengths)]


def check_pairs(batch: Batch) -> None:
    for row, index in enumerate(batch.indices):
        assert (batch.feeds["image"][row] == index).all()
        assert (batch.feeds["ids"][row] == index).all()
        assert batch.labels["answer"][row] == index
    assert batch.feeds.keys() == {"image", "ids"}
    assert batch.labels.keys() == {"answer"}
    assert {len(array) for array in (*batch.feeds.values(), *batch.labels.values())} == {len(batch.indices)}


LENGTHS = st.lists(st.integers(0, 4), max_size=40)


@given(LENGTHS, st.integers(1, 6), st.integers(1, 12))
def test_each_sample_comes_out_once_with_its_own_partners(lengths: list[int], size: int, held: int) -> None:
    made = list(batches(samples(lengths), spec_of(), size=size, held=held))
    for batch in made:
        check_pairs(batch)
        assert 1 <= len(batch.indices) <= size
        assert list(batch.indices) == sorted(batch.indices)
        assert {lengths[i] for i in batch.indices} == {batch.feeds["ids"].shape[1]}
    assert sorted(i for batch in made for i in batch.indices) == list(range(len(lengths)))


@given(LENGTHS, st.integers(1, 6), st.integers(1, 12))
def test_the_order_is_the_same_on_each_call(lengths: list[int], size: int, held: int) -> None:
    first, second = (
        [batch.indices for batch in batches(samples(lengths), spec_of(), size=size, held=held)] for _ in range(2)
    )
    assert first == second


@given(LENGTHS, st.integers(1, 6), st.integers(1, 12))
def test_no_more_than_so_many_wait(lengths: list[int], size: int, held: int) -> None:
    taken = 0

    def counted() -> Iterator[Sample]:
        nonlocal taken
        for one in samples(lengths):
            assert taken - given_out <= held, "before another is taken, no more than these wait"
            taken += 1
            yield one

    given_out = 0
    for batch in batches(counted(), spec_of(), size=size, held=held):
        assert taken - given_out <= max(held, 1)
        given_out += len(batch.indices)


@given(st.integers(1, 4), st.lists(st.integers(0, 3), max_size=24), st.integers(1, 6))
def test_a_fixed_batch_axis_is_kept(fixed: int, lengths: list[int], size: int) -> None:
    made: list[Batch] = []
    stream = batches(samples(lengths), spec_of(fixed), size=size, held=2)
    if any(lengths.count(n) % fixed for n in lengths):
        with pytest.raises(SampleError, match=f"fixed batch of {fixed}"):
            made.extend(stream)
    else:
        made.extend(stream)
        assert sorted(i for batch in made for i in batch.indices) == list(range(len(lengths)))
    for batch in made:
        check_pairs(batch)
    assert {len(batch.indices) for batch in made} <= {fixed}


def test_a_model_without_inputs_of_its_own_batch_takes_any_size() -> None:
    spec = ModelSpec(inputs=(TensorSpec(name="x", dtype="float32", shape=()),), outputs=())
    (batch,) = batches([{"x": np.float32(i)} for i in range(3)], spec)
    assert batch.feeds["x"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("odd", [0, 1])
@pytest.mark.parametrize("label", [None, np.zeros(3)])
def test_labels_that_only_some_samples_have_are_refused(odd: int, label: Array | None) -> None:
    given_samples = samples([2, 2])
    if label is None:
        del given_samples[odd]["label.answer"]
    else:
        given_samples[odd]["label.answer"] = label
    with pytest.raises(SampleError, match="samples 0 and 1 differ in the names or the shapes of their labels"):
        list(batches(given_samples, spec_of()))


def test_sizes_of_samples_become_ranges() -> None:
    ranges = shapes_profile(samples([4, 2, 9, 3]), spec_of(), batch=6)
    assert ranges == {"text": (2, 4, 9), "batch": (1, 1, 6)}
    assert shapes_profile(samples([5]), spec_of(4)) == {"text": (5, 5, 5)}


def test_no_batch_is_larger_than_the_range_of_the_model() -> None:
    spec = replace(spec_of(), ranges={"batch": (1, 2, 3)})
    assert [len(batch.indices) for batch in batches(samples([4] * 7), spec, size=5)] == [3, 3, 1]
    assert largest_batch(spec, 5) == 3
    assert largest_batch(spec, 2) == 2
    assert largest_batch(spec_of(), 5) == 5
