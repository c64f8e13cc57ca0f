"""Thresholds, weights and biases judged by what layers lose: on rows with a known distribution."""

from __future__ import annotations

import numpy as np
import pytest

from mmtrt.metrics.histogram import Histogram
from mmtrt.precision.scales import int8_scale, quantize
from mmtrt.precision.thresholds import METHODS, threshold
from mmtrt.precision.tune import Layer, bias_shift, choose, compensated


def seen(rows: np.ndarray) -> Histogram:
    histogram = Histogram()
    histogram.add(rows[:, None])
    return histogram


def result_noise(rows: np.ndarray, weight: np.ndarray, amax: float, stored: np.ndarray | None = None) -> float:
    """Power of what INT8 inputs and another weight change, relative to the results' own."""
    scale = int8_scale(amax)
    taken = (quantize(rows, scale) * scale) @ (weight if stored is None else stored)
    wanted = rows @ weight
    return float(np.square(taken - wanted).sum() / np.square(wanted).sum())


def heavy(rng: np.random.Generator, count: int, width: int) -> np.ndarray:
    rows = rng.standard_t(3, (count, width)).astype(np.float32)
    rows[:, 0] *= 8  # a channel that is larger than the others, as transformers have
    return rows


@pytest.mark.parametrize("seed", range(4))
def test_auto_loses_no_more_than_any_method_on_the_rows_it_saw(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, weight = heavy(rng, 256, 48), rng.standard_normal((48, 32)).astype(np.float32)
    histogram = seen(rows)
    found = choose(histogram, "auto", [Layer(rows=rows, weight=weight, seen=1 << 30)])
    assert found.method in METHODS
    noise = result_noise(rows, weight, found.value)
    assert noise == pytest.approx(found.noise, rel=1e-3)
    assert all(noise <= result_noise(rows, weight, threshold(histogram, m)) * 1.0001 for m in METHODS)


def test_auto_weighs_all_layers_that_read_a_value() -> None:
    rng = np.random.default_rng(0)
    rows = heavy(rng, 256, 48)
    blind = np.ones((48, 8), dtype=np.float32)
    blind[0] = 0  # reads all but the large channel
    sighted = np.zeros((48, 8), dtype=np.float32)
    sighted[0] = 1
    one, other = Layer(rows=rows, weight=blind), Layer(rows=rows, weight=sighted)
    histogram = seen(rows)
    narrow, wide = (choose(histogram, "auto", [layer]).value for layer in (one, other))
    both = choose(histogram, "auto", [one, other]).value
    assert narrow < both <= wide


def test_without_rows_auto_is_mse() -> None:
    histogram = seen(np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32))
    found = choose(histogram, "auto", [])
    assert (found.value, found.method) == (threshold(histogram, "mse"), "mse")


def test_a_value_that_is_always_zero_has_no_threshold_to_choose() -> None:
    rows = np.zeros((64, 8), dtype=np.float32)
    assert choose(seen(rows), "auto", [Layer(rows=rows, weight=np.ones((8, 4), np.float32))]).value == 0


def test_compensation_filters_noise_where_the_input_has_none_of_its_energy() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((6, 96)).astype(np.float32)
    rows, fresh = (rng.standard_normal((n, 6)).astype(np.float32) @ mixing for n in (256, 1024))
    weight = rng.standard_normal((96, 80)).astype(np.float32)
    amax = float(np.abs(rows).max())
    changed = compensated(Layer(rows=rows, weight=weight), amax)
    before, after = result_noise(fresh, weight, amax), result_noise(fresh, weight, amax, changed)
    assert after < 0.2 * before  # 6 of 96 directions carry the signal


def test_compensation_leaves_a_weight_alone_that_needs_all_directions() -> None:
    rng = np.random.default_rng(0)
    rows, fresh = (rng.standard_normal((n, 96)).astype(np.float32) for n in (256, 1024))
    weight = rng.standard_normal((96, 80)).astype(np.float32)
    amax = float(np.abs(rows).max())
    changed = compensated(Layer(rows=rows, weight=weight), amax)
    assert result_noise(fresh, weight, amax, changed) < 1.02 * result_noise(fresh, weight, amax)


def test_too_few_rows_change_no_weight() -> None:
    rng = np.random.default_rng(0)
    layer = Layer(rows=rng.standard_normal((16, 8)).astype(np.float32), weight=np.eye(8, dtype=np.float32))
    assert compensated(layer, 3.0) is layer.weight


def test_the_bias_takes_up_what_is_lost_on_average() -> None:
    rng = np.random.default_rng(0)
    rows = np.abs(rng.standard_normal((512, 32))).astype(np.float32)
    weight = rng.standard_normal((32, 16)).astype(np.float32)
    layer, amax = Layer(rows=rows, weight=weight), 1.5  # much is clipped, all in one direction
    scale = int8_scale(amax)
    taken = (quantize(rows, scale) * scale) @ weight
    error = rows @ weight - taken
    assert np.abs(error.mean(axis=0)).max() > 0.1
    assert np.abs((error - bias_shift(layer, amax, weight)).mean(axis=0)).max() < 1e-4


def test_few_rows_leave_room_for_new_ones() -> None:
    """Of 64 rows in all the next one goes beyond now and then; of a million it hardly does."""
    rng = np.random.default_rng(0)
    rows, weight = rng.uniform(-1, 1, (64, 16)).astype(np.float32), np.eye(16, dtype=np.float32)
    few, many = (choose(seen(rows), "auto", [Layer(rows=rows, weight=weight, seen=n)]).value for n in (64, 1 << 20))
    assert many <= 1.01
    assert few > 1.05
