"""Histograms, thresholds and INT8 scales, as number formats: by property, over hypothesis's floats."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mmtrt.metrics.histogram import Histogram
from mmtrt.precision.scales import int8_scale, quantize, weight_scales
from mmtrt.precision.thresholds import METHODS, threshold

FINITE = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=True)
BATCHES = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=9), elements=FINITE)


def seen(*batches: np.ndarray) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.add(batch)
    return histogram


@given(BATCHES)
def test_amax_is_exact_and_small_batches_are_counted_whole(batch: np.ndarray) -> None:
    histogram = seen(batch)
    assert histogram.amax == np.abs(batch).max()
    assert histogram.counts.sum() == batch.size


@given(BATCHES, BATCHES)
def test_calibrating_on_one_set_and_then_another_is_calibrating_on_both(a: np.ndarray, b: np.ndarray) -> None:
    merged = seen(a)
    merged.merge(seen(b))
    both = seen(a, b)
    assert merged.amax == both.amax
    assert np.array_equal(merged.counts, both.counts)


@given(st.integers(1025, 40_000), st.integers(1, 64))
@settings(max_examples=30)
def test_a_large_sample_is_thinned_without_leaving_a_channel_out(size: int, channels: int) -> None:
    size -= size % channels
    marks = np.tile(np.exp2(np.arange(channels)).astype(np.float32), size // channels)
    histogram = seen(marks[None])
    assert histogram.counts.sum() <= 1024
    assert np.count_nonzero(histogram.counts) == channels


def test_each_sample_of_a_batch_counts_alike() -> None:
    rows = np.random.default_rng(0).standard_normal((7, 3, 50, 50)).astype(np.float32)
    together = seen(rows)
    apart = seen(*(row[None] for row in rows))
    assert np.array_equal(together.counts, apart.counts)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    batch = np.zeros((2, 3), dtype=np.float32)
    batch[1, 1] = bad
    with pytest.raises(ValueError, match="not finite"):
        Histogram().add(batch)


@given(BATCHES, st.sampled_from(sorted(METHODS)))
def test_a_threshold_never_exceeds_what_was_seen(batch: np.ndarray, method: str) -> None:
    histogram = seen(batch)
    value = threshold(histogram, method)
    assert 0 <= value <= histogram.amax
    assert value > 0 or histogram.amax == 0 or method == "percentile"


def error_at(values: np.ndarray, amax: float) -> float:
    scale = int8_scale(amax)
    return float(np.square(quantize(values, scale) * scale - values, dtype=np.float64).sum())


@pytest.mark.parametrize("seed", range(5))
def test_mse_finds_a_threshold_that_loses_less_than_the_maximum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((800, 1000)).astype(np.float32)
    values[0, 0] = 12.0
    histogram = seen(values)
    best = threshold(histogram, "mse")
    assert best < 8
    assert error_at(values, best) < 0.8 * error_at(values, histogram.amax)
    dense = min(error_at(values, t) for t in np.linspace(2, 12, 60))
    assert error_at(values, best) < 1.1 * dense


def test_a_percentile_leaves_one_in_ten_thousand_out() -> None:
    values = np.arange(1, 200_001, dtype=np.float32).reshape(100, 2000)
    assert threshold(seen(values), "percentile") == pytest.approx(199_980, rel=2**-7)


@given(hnp.arrays(np.float32, st.integers(1, 20), elements=st.floats(0, 2.0**127, width=32)))
def test_a_scale_is_positive_and_finite_so_that_tensorrt_takes_it(amax: np.ndarray) -> None:
    scale = int8_scale(amax)
    assert scale.dtype == np.float32
    assert (scale > 0).all()
    assert np.isfinite(scale).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_range_that_is_not_finite_has_no_scale(bad: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        int8_scale(np.array([1.0, bad]))


@given(hnp.arrays(np.float32, st.integers(1, 50), elements=st.floats(-1e6, 1e6, width=32)))
def test_codes_are_symmetric_and_within_half_a_step(values: np.ndarray) -> None:
    scale = int8_scale(np.abs(values).max())
    codes = quantize(values, scale)
    assert codes.dtype == np.int8
    assert codes.min() >= -127
    assert np.abs(codes * scale.astype(np.float64) - values).max() <= 0.5001 * scale


@given(
    hnp.arrays(
        np.float32, hnp.array_shapes(min_dims=2, max_dims=3, max_side=6), elements=st.floats(-100, 100, width=32)
    ),
    st.data(),
)
def test_weight_scales_lose_no_more_than_the_largest_value_would(weight: np.ndarray, data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, weight.ndim - 1))
    scale = weight_scales(weight, axis)
    assert scale.shape == (weight.shape[axis],)
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    for row, step in zip(rows, scale, strict=True):
        widest = int8_scale(np.abs(row).max())
        loss = np.square(quantize(row, step) * step - row, dtype=np.float64).sum()
        limit = np.square(quantize(row, widest) * widest - row, dtype=np.float64).sum()
        assert loss <= limit * 1.000001 + 1e-12


def test_a_weight_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        weight_scales(np.array([[1.0, np.nan]], dtype=np.float32), 0)


def test_entropy_clips_a_few_outliers_far_from_the_rest() -> None:
    """ReLU6's values and three outliers at 40: the gap between them holds nothing, so it must not look like a tail."""
    values = np.random.default_rng(0).uniform(0, 6, (200, 500)).astype(np.float32)
    values[0, :3] = 40
    assert 5.5 < threshold(seen(values), "entropy") < 9
