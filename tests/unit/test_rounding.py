"""Weights rounded in turn: on inputs with a known covariance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtrt.precision.rounding import rounded
from mmtrt.precision.scales import quantize, weight_scales


def drawn(seed: int, count: int, inputs: int, hidden: int, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return rows that mix `hidden` directions, and as many new ones."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((hidden, inputs))
    both = rng.standard_normal((2 * count, hidden)) @ mixing + 0.05 * rng.standard_normal((2 * count, inputs)) + offset
    rows, fresh = np.split(both.astype(np.float32), 2)
    return rows, fresh


def lost(rows: np.ndarray, codes: np.ndarray, scale: np.ndarray, weight: np.ndarray, *, corrected: bool) -> float:
    error = rows @ (codes * scale - weight)
    return float(np.square(error - (error.mean(axis=0) if corrected else 0)).sum())


@pytest.mark.parametrize("corrected", [False, True])
def test_errors_cancel_in_new_results_too(*, corrected: bool) -> None:
    rows, fresh = drawn(0, 512, 96, 24)
    weight = np.random.default_rng(1).standard_normal((96, 40)).astype(np.float32)
    scale = weight_scales(weight, 1)
    codes = rounded(rows, weight, scale, float(np.abs(rows).max()), corrected=corrected)
    assert codes is not None
    nearest = lost(fresh, quantize(weight, scale, 1), scale, weight, corrected=corrected)
    assert lost(fresh, codes, scale, weight, corrected=corrected) < 0.3 * nearest


def test_a_mean_that_the_bias_takes_back_is_left_to_it() -> None:
    rows, fresh = drawn(2, 512, 64, 64, offset=20.0)
    weight = np.random.default_rng(3).standard_normal((64, 16)).astype(np.float32)
    scale, amax = weight_scales(weight, 1), float(np.abs(rows).max())
    plain, with_bias = (rounded(rows, weight, scale, amax, corrected=corrected) for corrected in (False, True))
    assert plain is not None
    spread = [lost(fresh, codes, scale, weight, corrected=True) for codes in (plain, with_bias) if codes is not None]
    assert spread[-1] <= spread[0]
    assert lost(fresh, plain, scale, weight, corrected=False) < 0.3 * lost(
        fresh, quantize(weight, scale, 1), scale, weight, corrected=False
    )


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 1 << 16), st.integers(64, 160), st.integers(1, 70), st.integers(1, 9), st.sampled_from([0.0, 5.0])
)
def test_codes_are_near_the_weight_and_in_range(
    seed: int, count: int, inputs: int, outputs: int, offset: float
) -> None:
    rows, _ = drawn(seed, count, inputs, max(1, inputs // 2), offset)
    rows[:, 0] = 0  # a dead input
    weight = np.random.default_rng(seed).standard_normal((inputs, outputs)).astype(np.float32)
    scale = weight_scales(weight, 1)
    codes = rounded(rows, weight, scale, float(np.abs(rows).max()), corrected=True)
    if codes is not None:
        assert codes.shape == weight.shape
        assert codes.dtype == np.int8
        assert codes.min() >= -127
        assert (codes[0] == quantize(weight, scale, 1)[0]).all()  # nothing tells how else to round it


@pytest.mark.parametrize(("count", "inputs"), [(48, 16), (256, 512), (1024, 700)])
def test_too_few_rows_or_too_many_inputs_leave_nearest_codes(count: int, inputs: int) -> None:
    rows, _ = drawn(4, count, inputs, 8)
    weight = np.random.default_rng(5).standard_normal((inputs, 8)).astype(np.float32)
    assert rounded(rows, weight, weight_scales(weight, 1), float(np.abs(rows).max()), corrected=True) is None
