"""Explained variance, batch by batch, against the formula on whole arrays."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mmtrt.metrics import Comparison
from mmtrt.metrics.variation import VARIES
from mmtrt.tensors import Array

NUMBERS = st.floats(-100, 100, width=32)
SIZES = st.sampled_from([(), (1,), (3,), (2, 4)])


def fed(left: Array, right: Array, data: st.DataObject, kind: str = "regression") -> dict[str, float | None]:
    comparison = Comparison(kind)
    where = sorted(data.draw(st.lists(st.integers(0, len(left)), max_size=3)))
    for a, b in zip(np.split(left, where), np.split(right, where), strict=True):
        comparison.add(a, b)
    return comparison.measured()


def naive(left: Array, right: Array) -> tuple[float | None, float | None]:
    """R² over the positions that vary, and the worst of the channels of the last axis."""
    x, error = left.astype(np.float64), left.astype(np.float64) - right
    spread = ((x - x.mean(axis=0)) ** 2).sum(axis=0)
    varies = spread > VARIES**2 * (x**2).sum(axis=0)
    assume(not np.any(np.isclose(spread, VARIES**2 * (x**2).sum(axis=0), rtol=1e-6)))
    if not varies.any():
        return None, None
    noise = np.where(varies, (error**2).sum(axis=0), 0)
    spread = np.where(varies, spread, 0)
    channels = left.shape[-1] if left.ndim > 1 else 1
    by_channel = [
        1 - n / s
        for n, s in zip(noise.reshape(-1, channels).sum(axis=0), spread.reshape(-1, channels).sum(axis=0), strict=True)
        if s > 0
    ]
    return 1 - noise.sum() / spread.sum(), min(by_channel)


@given(st.data(), st.integers(2, 6), SIZES)
def test_it_is_the_r2_of_each_position(data: st.DataObject, rows: int, size: tuple[int, ...]) -> None:
    left = data.draw(npst.arrays(np.float32, (rows, *size), elements=NUMBERS))
    right = left + data.draw(npst.arrays(np.float32, (rows, *size), elements=NUMBERS))
    explained, worst = naive(left, right)
    found = fed(left, right, data)
    if explained is None:
        assert found["explained_variance"] is found["worst_explained_variance"] is None
    else:
        assert found["explained_variance"] == pytest.approx(explained, rel=1e-6, abs=1e-6)
        assert found["worst_explained_variance"] == pytest.approx(worst, rel=1e-6, abs=1e-6)


@given(st.data(), st.lists(st.integers(1, 4), min_size=2, max_size=4).filter(lambda sizes: len(set(sizes)) > 1))
def test_where_samples_differ_in_shape_a_channel_has_one_mean(data: st.DataObject, lengths: list[int]) -> None:
    parts = [data.draw(npst.arrays(np.float64, (2, n, 3), elements=NUMBERS)) for n in lengths]
    noise = [data.draw(npst.arrays(np.float64, part.shape, elements=NUMBERS)) for part in parts]
    comparison = Comparison()
    for part, error in zip(parts, noise, strict=True):
        comparison.add(part, part + error)
    rows, errors = (np.concatenate([p.reshape(-1, 3) for p in group]) for group in (parts, noise))
    explained, _ = naive(rows, rows + errors)
    found = comparison.explained_variance
    assert found is explained is None or found == pytest.approx(explained, rel=1e-6, abs=1e-6)


def test_an_axis_of_which_samples_have_more_or_less_holds_no_channels() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(5, 1, size=(4, n)) for n in (3, 7, 3)]
    errors = [rng.normal(0, 0.5, size=part.shape) for part in parts]
    comparison = Comparison("regression")
    for part, error in zip(parts, errors, strict=True):
        comparison.add(part, part + error)
    every, noise = (np.concatenate([p.reshape(-1) for p in group]) for group in (parts, errors))
    wanted = 1 - (noise**2).sum() / ((every - every.mean()) ** 2).sum()
    assert comparison.explained_variance == pytest.approx(wanted)
    assert comparison.measured()["worst_explained_variance"] == pytest.approx(wanted)


def test_a_head_that_collapsed_to_its_mean_explains_nothing_though_its_sqnr_is_fine() -> None:
    reference = 100 + np.random.default_rng(0).standard_normal((256, 1)).astype(np.float32)
    comparison = Comparison()
    comparison.add(reference, np.full_like(reference, 100))
    assert comparison.sqnr_db > 39
    assert comparison.cosine > 0.9999
    explained = comparison.explained_variance
    assert explained is not None
    assert explained < 0.01


def test_one_channel_that_collapsed_hides_behind_a_larger_one_but_not_as_the_worst() -> None:
    reference = np.random.default_rng(0).standard_normal((256, 2)) * [100, 1]
    comparison = Comparison("regression")
    comparison.add(reference, reference * [1, 0])
    found = comparison.measured()
    assert found["explained_variance"] > 0.999  # type: ignore[operator]
    assert found["worst_explained_variance"] == pytest.approx(0, abs=0.05)


def test_a_constant_beside_what_varies_is_left_out() -> None:
    """Logits that a mask holds at -1e4 make any noise look small."""
    rng = np.random.default_rng(0)
    reference = np.concatenate([rng.normal(size=(64, 4)), np.full((64, 4), -1e4)], axis=1)
    lost = reference * [0, 0, 0, 0, 1, 1, 1, 1]
    comparison = Comparison()
    comparison.add(reference, lost)
    assert comparison.sqnr_db > 70
    assert comparison.explained_variance == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize(
    "reference", [np.full((8, 3), 7.0), np.full((8, 3), 7.0) + np.eye(8, 3) * 1e-3, np.ones((1, 3))]
)
def test_what_does_not_vary_beyond_rounding_has_none(reference: Array) -> None:
    comparison = Comparison()
    comparison.add(reference, reference + 1)
    assert comparison.explained_variance is None


def test_an_offset_costs_no_digits() -> None:
    rng = np.random.default_rng(0)
    small = rng.standard_normal((512, 3))
    errors = rng.standard_normal((512, 3)) * 0.5
    near, far = Comparison(), Comparison()
    for index in range(0, 512, 32):
        part, error = small[index : index + 32], errors[index : index + 32]
        near.add(part, part + error)
        far.add(part + 200, part + error + 200)
    assert near.explained_variance is not None
    assert far.explained_variance == pytest.approx(near.explained_variance, rel=1e-9)


def test_elements_that_are_not_finite_are_left_out() -> None:
    reference = np.random.default_rng(0).standard_normal((16, 3))
    broken = reference.copy()
    broken[3] = math.nan
    comparison = Comparison()
    comparison.add(broken, reference)
    assert comparison.explained_variance == 1
    assert comparison.non_finite == 3
