"""Balanced channels: the same results, and less lost to rounding on rows that the balance never saw."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtrt.precision.balance import Balance, balance, widened
from mmtrt.precision.scales import int8_scale, quantize


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def balanced(rows: np.ndarray, weight: np.ndarray, *, seen: int = 1 << 20) -> Balance | None:
    return balance([(rows, weight, seen)], [1], shifts=True, corrected=True)


def noise(rows: np.ndarray, weight: np.ndarray, found: Balance | None) -> float:
    """Power that INT8 adds to the results, relative to their own, at the best of some ranges."""
    taken, stored, bias = rows, weight, np.zeros(weight.shape[1], np.float32)
    if found is not None:
        taken, stored, bias = found.rows(rows), found.weight(weight), found.bias(weight)
    step = int8_scale(np.abs(stored).max(axis=0))
    stored = quantize(stored, step, 1) * step
    wanted = rows @ weight
    lost = []
    limits = [np.abs(taken).max() * clip for clip in (1.0, 0.8, 0.6)]
    for limit in limits if found is None or found.amax is None else [found.amax]:
        scale = int8_scale(limit)
        got = (quantize(taken, scale) * scale) @ stored + bias
        error = got - wanted
        error -= error.mean(axis=0)  # what a corrected bias takes back
        lost.append(float(np.square(error).sum() / np.square(wanted).sum()))
    return min(lost)


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 9), st.sampled_from([1, 4, 9]))
@settings(max_examples=40, deadline=None)
def test_results_stay_the_same(seed: int, channels: int, columns: int, repeat: int) -> None:
    rng = np.random.default_rng(seed)
    found = Balance(
        scale=rng.uniform(0.1, 10, channels).astype(np.float32),
        shift=rng.standard_normal(channels).astype(np.float32),
        repeat=repeat,
    )
    rows, weight = normal(seed, 20, channels * repeat), normal(seed + 1, channels * repeat, columns)
    got = found.rows(rows) @ found.weight(weight) + found.bias(weight)
    np.testing.assert_allclose(got, rows @ weight, rtol=1e-3, atol=1e-3)


CASES = {
    "ranges that differ": lambda rows: rows * np.geomspace(0.05, 5, rows.shape[1], dtype=np.float32),
    "channels off zero": lambda rows: rows + np.linspace(-8, 8, rows.shape[1], dtype=np.float32),
    "one side only": np.abs,
}


@pytest.mark.parametrize("case", CASES)
def test_new_rows_lose_less(case: str) -> None:
    rows, fresh = CASES[case](normal(0, 256, 64)), CASES[case](normal(1, 1000, 64))
    weight = normal(2, 64, 48)
    found = balanced(rows, weight)
    assert found is not None
    assert noise(fresh, weight, found) < 0.7 * noise(fresh, weight, None)


def test_what_is_never_negative_gets_all_codes_and_keeps_its_zeros() -> None:
    rows, weight = np.maximum(normal(0, 256, 64), 0), normal(2, 64, 48)
    found = balanced(rows, weight)
    assert found is not None
    assert found.amax is not None
    step = int8_scale(found.amax)
    codes = quantize(found.rows(rows), step)
    assert codes.min() == -127
    back = (codes * step * found.scale + found.shift)[rows == 0]
    np.testing.assert_allclose(back, 0, atol=1e-5)
    fresh = np.maximum(normal(1, 1000, 64), 0)
    assert noise(fresh, weight, found) < 0.6 * noise(fresh, weight, None)


def test_even_channels_are_left_nearly_as_they_are() -> None:
    rows, fresh, weight = normal(0, 256, 64), normal(1, 1000, 64), normal(2, 64, 48)
    assert noise(fresh, weight, balanced(rows, weight)) < 1.1 * noise(fresh, weight, None)


def test_all_layers_that_read_a_value_share_one_balance() -> None:
    rows = normal(0, 256, 32) * np.geomspace(0.05, 5, 32, dtype=np.float32)
    windows = np.repeat(rows, 9, axis=1)
    found = balance([(rows, normal(1, 32, 16), 9999), (windows, normal(2, 288, 16), 9999)], [1, 9], shifts=False)
    assert found is not None
    assert found.scale.shape == (32,)
    assert not found.shift.any()
    wide = widened(found, 9)
    np.testing.assert_array_equal(wide.rows(windows)[:, ::9], found.rows(rows))


def test_a_dead_channel_is_not_blown_up() -> None:
    rows = normal(0, 256, 16) * np.geomspace(0.1, 10, 16, dtype=np.float32)
    rows[:, 3] = 0
    weight = normal(1, 16, 8)
    weight[5] = 0
    found = balanced(rows, weight)
    assert found is not None
    assert np.isfinite(found.scale).all()
    assert found.scale.max() / found.scale.min() < 1e7
    assert np.isfinite(found.rows(rows)).all()


def test_where_there_is_nothing_to_balance() -> None:
    weight = normal(1, 16, 8)
    assert balanced(np.zeros((256, 16), np.float32), weight) is None
    assert balanced(np.zeros((0, 16), np.float32), weight) is None
    assert balanced(normal(0, 4, 16), weight) is None
    different = [(normal(0, 256, 16), weight, 256), (normal(0, 256, 12), normal(1, 12, 8), 256)]
    assert balance(different, [1, 1], shifts=True) is None
