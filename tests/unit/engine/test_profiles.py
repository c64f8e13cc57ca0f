from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmtrt.engine.profiles import NetworkTensor, check_order, check_profile, full_profile
from mmtrt.errors import UsageError
from mmtrt.tensors import ShapeRange

IDS = NetworkTensor(name="ids", dtype="int64", shape=("batch", "tokens"))
IMAGE = NetworkTensor(name="image", dtype="float32", shape=("batch", 3, 64, 64))
BIAS = NetworkTensor(name="bias", dtype="float32", shape=(7,))


def span(low: tuple[int, ...], usual: tuple[int, ...], high: tuple[int, ...]) -> ShapeRange:
    return ShapeRange(min=low, opt=usual, max=high)


GOOD = {"ids": span((1, 4), (2, 8), (4, 16)), "image": span((1, 3, 64, 64), (2, 3, 64, 64), (4, 3, 64, 64))}


def test_a_profile_that_fits_is_completed_with_static_inputs() -> None:
    inputs = (BIAS, IDS, IMAGE)
    check_profile(GOOD, inputs)
    full = full_profile(GOOD, inputs)
    assert list(full) == ["bias", "ids", "image"]
    assert full["bias"] == span((7,), (7,), (7,))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ids": span((2, 4), (1, 8), (4, 16))}, r"'ids', axis 0: min 2, opt 1, max 4"),
        ({"ids": span((1, 4), (2, 17), (4, 16))}, r"'ids', axis 1: min 4, opt 17, max 16"),
        ({"ids": span((-1, 4), (2, 8), (4, 16))}, r"'ids', axis 0"),
        ({"ids": span((1,), (2, 8), (4, 16))}, r"'ids'.*different ranks: 1, 2x8 and 4x16"),
        ({"ids": span((1, 4, 1), (2, 8, 1), (4, 16, 1))}, r"'ids' has 2 axes .*its profile has 3"),
        (
            {"image": span((1, 3, 64, 64), (2, 3, 64, 64), (4, 3, 65, 64))},
            r"'image', axis 2: the model fixes 64, .* 65",
        ),
        ({"ids": span((1, 4), (2, 8), (8, 16))}, r"'image', axis 0: size 'batch' is \(1, 2, 4\) here, \(1, 2, 8\)"),
        ({"idz": span((1, 4), (2, 8), (4, 16))}, r"names 'idz', which is no input.*\n.*'ids'"),
        ({"pressure": span((1,), (1,), (1,))}, r"(?s)'pressure'.*Its inputs are ids, image"),
    ],
)
def test_what_does_not_fit_names_the_input_and_axis(changes: dict[str, ShapeRange], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_profile({**GOOD, **changes}, (IDS, IMAGE))


def test_a_dynamic_input_without_a_range() -> None:
    with pytest.raises(UsageError, match=r"'image' has dynamic axes \(batch, 3, 64, 64\)"):
        check_profile({"ids": GOOD["ids"]}, (IDS, IMAGE))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=4))
def test_order_is_checked_on_each_axis(axes: list[tuple[int, int, int]]) -> None:
    low, usual, high = (tuple(axis[i] for axis in axes) for i in range(3))
    profile = {"x": span(low, usual, high)}
    if all(a <= b <= c for a, b, c in axes):
        check_order(profile)
    else:
        with pytest.raises(UsageError, match="not in order"):
            check_order(profile)
