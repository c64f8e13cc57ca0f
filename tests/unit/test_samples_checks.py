from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mmtrt.errors import SampleError
from mmtrt.samples import checked
from mmtrt.tensors import Array, ModelSpec, TensorSpec

SPEC = ModelSpec(
    inputs=(
        TensorSpec(name="image", dtype="float32", shape=("batch", 3, 4)),
        TensorSpec(name="ids", dtype="int64", shape=("batch", "text")),
        TensorSpec(name="mask", dtype="int64", shape=("batch", "text")),
    ),
    outputs=(),
    ranges={"batch": (1, 2, 8), "text": (2, 3, 6)},
    limits={"ids": (0, 19)},
)


def sample(**changes: Any) -> dict[str, Array]:
    whole = {"image": np.ones((3, 4), np.float32), "ids": np.array([1, 2, 3]), "mask": np.ones(3, np.int64)}
    return {name: array for name, array in {**whole, **changes}.items() if array is not None}


def one(**changes: Any) -> dict[str, Array]:
    return next(checked([sample(**changes)], SPEC))


def refused(**changes: Any) -> SampleError:
    """The error of the second of two samples."""
    with pytest.raises(SampleError) as caught:
        list(checked([sample(), sample(**changes)], SPEC))
    assert caught.value.message.startswith("sample 1")
    return caught.value


def test_a_sample_that_fits_comes_back_as_it_is() -> None:
    given_sample = sample()
    (got,) = checked([given_sample], SPEC)
    assert got.keys() == given_sample.keys()
    assert all(got[name] is array for name, array in given_sample.items())


def test_labels_and_golden_outputs_pass_through() -> None:
    got = one(**{"label.answer": np.asarray(3), "output.answer": np.full(5, np.nan)})
    assert got["label.answer"] == 3
    assert np.isnan(got["output.answer"]).all()


# ------------------------------------------------------------------------------------------------------- names


def test_a_missing_input_is_named() -> None:
    error = refused(mask=None)
    assert "lacks input 'mask'" in error.message
    assert error.fix == "The model's inputs are ids, image, mask."


def test_a_name_that_is_nearly_right_is_suggested() -> None:
    error = refused(mask=None, masks=np.ones(3))
    assert "lacks input 'mask'" in error.message
    assert error.fix == "It has 'masks': rename it."


def test_an_extra_input_is_refused() -> None:
    error = refused(depth=np.ones(3))
    assert "has 'depth', which is no input of the model" in error.message
    assert "'label.'" in str(error.fix)


# ------------------------------------------------------------------------------------------------------- types


@pytest.mark.parametrize(
    ("name", "array", "dtype"),
    [
        ("ids", np.array([1, 2, 3], np.int32), "int32"),
        ("ids", np.array([1, 2, 3], np.uint8), "uint8"),
        ("mask", np.array([True, True, False]), "bool"),
        ("mask", np.array([1, 2, 3], np.uint64), "uint64"),
        ("image", np.ones((3, 4)), "float64"),
        ("image", np.ones((3, 4), np.float16), "float16"),
        ("ids", np.array([1, 2, 3], ">i8"), ">i8"),
    ],
)
def test_what_can_be_cast_is_and_told_once(name: str, array: Array, dtype: str) -> None:
    notes: list[str] = []
    got = list(checked([sample(**{name: array})] * 3, SPEC, note=notes.append))
    wanted = {"image": "float32", "ids": "int64", "mask": "int64"}[name]
    assert {str(s[name].dtype) for s in got} == {wanted}
    np.testing.assert_array_equal(got[2][name], array)
    assert notes == [f"input {name!r} is {dtype} in the samples and is cast to {wanted}"]


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("ids", np.array([1.0, 2.0, 3.0])),
        ("image", np.ones((3, 4), np.int64)),
        ("image", np.ones((3, 4), np.complex64)),
        ("ids", np.array(["a", "b", "c"])),
        ("ids", np.array([1, None, 3], dtype=object)),
        ("mask", np.array([1, 2, 2**63 + 1], np.uint64)),
    ],
)
def test_what_can_t_be_cast_without_loss_is_refused(name: str, array: Array) -> None:
    error = refused(**{name: array})
    assert f"input {name!r} is {array.dtype}, the model takes" in error.message
    assert "Convert it to" in str(error.fix)


INTEGERS = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


@given(st.data())
def test_a_cast_never_changes_an_integer(data: st.DataObject) -> None:
    dtype, target = data.draw(st.sampled_from(INTEGERS)), data.draw(st.sampled_from(INTEGERS[1:]))
    array = data.draw(npst.arrays(dtype, 3))
    spec = ModelSpec(inputs=(TensorSpec(name="x", dtype=target, shape=("batch", 3)),), outputs=())
    numbers = [int(value) for value in array]
    info = np.iinfo(target)
    if all(info.min <= number <= info.max for number in numbers):
        (got,) = checked([{"x": array}], spec)
        assert [int(value) for value in got["x"]] == numbers
        assert str(got["x"].dtype) == target
    else:
        with pytest.raises(SampleError, match="the model takes"):
            list(checked([{"x": array}], spec))


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_a_float_too_large_for_the_model_is_refused() -> None:
    assert "holds Inf" in refused(image=np.full((3, 4), 1e300)).message


# ------------------------------------------------------------------------------------------------------ shapes


def test_a_leading_axis_of_one_is_taken_off() -> None:
    got = one(image=np.ones((1, 3, 4), np.float32), ids=np.array([[1, 2]]), mask=np.ones(2, np.int64))
    assert (got["image"].shape, got["ids"].shape) == ((3, 4), (2,))


@pytest.mark.parametrize("shape", [(2, 3, 4), (4,), (1, 1, 3, 4), ()])
def test_a_wrong_rank_is_refused(shape: tuple[int, ...]) -> None:
    error = refused(image=np.ones(shape, np.float32))
    assert "the model takes (3x4) beside the batch axis" in error.message
    assert "no batch axis" in str(error.fix)


def test_a_wrong_size_is_refused() -> None:
    assert "has size 5 on axis 1, the model takes 4" in refused(image=np.ones((3, 5), np.float32)).message


def test_inputs_must_agree_on_a_shared_size() -> None:
    error = refused(mask=np.ones(4, np.int64))
    assert "'text' is 3 in 'ids' and 4 in 'mask'" in error.message


@pytest.mark.parametrize("size", [1, 7])
def test_a_size_outside_its_range_is_refused(size: int) -> None:
    error = refused(ids=np.ones(size, np.int64), mask=np.ones(size, np.int64))
    assert f"has text = {size}, outside the profile's 2 to 6" in error.message
    assert "Widen the range of 'text'" in str(error.fix)


@pytest.mark.parametrize("size", [2, 6])
def test_the_ends_of_a_range_are_in_it(size: int) -> None:
    assert one(ids=np.ones(size, np.int64), mask=np.ones(size, np.int64))["ids"].shape == (size,)


# ------------------------------------------------------------------------------------------------------ values


@pytest.mark.parametrize(("value", "told"), [(np.nan, "NaN"), (np.inf, "Inf"), (-np.inf, "Inf")])
def test_what_is_not_finite_is_refused(value: float, told: str) -> None:
    image = np.ones((3, 4), np.float32)
    image[1, 2:] = value
    assert f"input 'image' holds {told} (2 of 12 values)" in refused(image=image).message


@pytest.mark.parametrize(("ids", "worst"), [([0, 20, 3], 20), ([-1, 25, 3], -1)])
def test_a_token_outside_the_table_is_refused(ids: list[int], worst: int) -> None:
    error = refused(ids=np.array(ids))
    assert f"input 'ids' holds {worst}, the model's table has 0 to 19" in error.message
    assert "tokenizer" in str(error.fix)


def test_the_ends_of_the_table_are_in_it() -> None:
    assert one(ids=np.array([0, 19, 3]))["ids"].tolist() == [0, 19, 3]


def test_no_token_is_outside_the_table() -> None:
    spec = ModelSpec(inputs=SPEC.inputs[1:2], outputs=(), limits={"ids": (0, 19)})
    assert next(checked([{"ids": np.zeros(0, np.int64)}], spec))["ids"].size == 0
