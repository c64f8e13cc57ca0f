from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mmtrt.metrics import METRICS, Comparison
from mmtrt.tensors import Array

FLOATS = st.floats(-1e3, 1e3, width=32) | st.sampled_from([0.0, math.nan, math.inf, -math.inf])


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Array, Array]:
    """A reference and a candidate that mostly agree, with batch axis."""
    shape = draw(npst.array_shapes(min_dims=1, max_dims=3, max_side=5))
    left = draw(npst.arrays(np.float32, shape, elements=FLOATS))
    right = draw(npst.arrays(np.float32, shape, elements=FLOATS))
    take = draw(npst.arrays(bool, shape))
    return left, np.where(take, right, left)


def cuts(draw: st.DataObject, rows: int) -> list[int]:
    return sorted(draw.draw(st.lists(st.integers(0, rows), max_size=3)))


@given(pairs(), st.data())
def test_a_comparison_is_that_of_the_whole_arrays(pair: tuple[Array, Array], data: st.DataObject) -> None:
    left, right = pair
    comparison = Comparison()
    where = cuts(data, len(left))
    for a, b in zip(np.split(left, where), np.split(right, where), strict=True):
        comparison.add(a, b)

    x, y = left.astype(np.float64), right.astype(np.float64)
    fine = np.isfinite(x) & np.isfinite(y)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    assert comparison.elements == x.size
    assert comparison.non_finite == (~fine & ~same).sum()
    assert comparison.reference_non_finite == (~np.isfinite(x)).sum()
    assert comparison.max_abs == np.abs(x[fine] - y[fine]).max(initial=0)
    signal, noise = (x[fine] ** 2).sum(), ((x[fine] - y[fine]) ** 2).sum()
    if noise == 0:
        assert (comparison.sqnr_db, comparison.rel_l2, comparison.cosine) == (math.inf, 0, 1)
    elif signal == 0:
        assert (comparison.sqnr_db, comparison.rel_l2, comparison.cosine) == (-math.inf, math.inf, 0)
    else:
        assert comparison.sqnr_db == pytest.approx(10 * math.log10(signal / noise), abs=1e-6)
        assert comparison.rel_l2 == pytest.approx(math.sqrt(noise / signal))
        norms = math.sqrt(signal * (y[fine] ** 2).sum())
        cosine = x[fine] @ y[fine] / norms if norms else 0
        assert comparison.cosine == pytest.approx(cosine, abs=1e-9)
        assert -1 <= comparison.cosine <= 1
    if left.ndim > 1 and left.shape[-1] > 1:
        agreed = x.argmax(axis=-1) == y.argmax(axis=-1)
        assert comparison.argmax_agreement == pytest.approx(agreed.mean())
    else:
        assert comparison.argmax_agreement is None


@given(npst.arrays(np.float32, npst.array_shapes(max_dims=3, max_side=6), elements=FLOATS))
def test_identical_arrays_are_exact(array: Array) -> None:
    comparison = Comparison()
    comparison.add(array, array.copy())
    assert comparison.sqnr_db == math.inf
    assert comparison.cosine == 1
    assert comparison.max_abs == comparison.rel_l2 == comparison.non_finite == 0
    assert comparison.argmax_agreement in {1, None}


def test_each_value_that_should_be_finite_and_is_not_counts() -> None:
    comparison = Comparison()
    comparison.add(np.array([1, math.nan, math.inf, 3, 4]), np.array([math.nan, math.nan, -math.inf, math.inf, 4]))
    assert comparison.non_finite == 3
    assert comparison.reference_non_finite == 2
    assert comparison.max_abs == 0, "what is not finite is left out of the sums"


def test_one_value_a_sample_has_no_classes() -> None:
    comparison = Comparison()
    comparison.add(np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0]))
    assert comparison.argmax_agreement is None


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
def test_sums_beyond_the_range_of_floats_never_look_good() -> None:
    comparison = Comparison()
    comparison.add(np.array([1e200, 1.0]), np.array([-1e200, 1.0]))
    assert not comparison.cosine >= 0.99
    assert not comparison.sqnr_db >= 20
    tiny = Comparison()
    tiny.add(np.array([1e-150]), np.array([1e150]))
    assert tiny.sqnr_db == pytest.approx(-6000)


def test_a_number_without_axes_is_one_sample() -> None:
    comparison = Comparison()
    comparison.add(np.array(2.0), np.array(1.5))
    assert (comparison.events, comparison.max_abs, comparison.argmax_agreement) == (1, 0.5, None)
    assert comparison.measured()["max_rel"] == 0.25


@given(pairs())
def test_percentiles_of_the_error_are_never_too_small_and_within_the_grid(pair: tuple[Array, Array]) -> None:
    comparison = Comparison()
    comparison.add(*pair)
    x, y = (array.astype(np.float64) for array in pair)
    fine = np.isfinite(x) & np.isfinite(y)
    error = np.abs(x[fine] - y[fine])
    found = comparison.measured()
    for name, share in (("error_p50", 0.5), ("error_p99", 0.99), ("error_p999", 0.999)):
        told = found[name]
        wanted = float(np.quantile(error, share, method="inverted_cdf")) if error.size else 0.0
        assert told is not None
        assert wanted * (1 - 1e-6) <= told + 1e-37
        assert told <= wanted * (1 + 2**-6) + 1e-37
    rms = math.sqrt((x[fine] ** 2).sum() / x.size)
    if rms:
        assert found["max_rel"] == pytest.approx(error.max(initial=0) / rms)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 2\)"):
        Comparison().add(np.zeros((2, 3)), np.zeros((3, 2)))


def test_values_are_plain_and_infinities_none() -> None:
    comparison = Comparison()
    comparison.add(np.zeros((1, 2)), np.ones((1, 2)))
    values = comparison.values()
    assert tuple(values) == METRICS
    assert {name: value for name, value in values.items() if value is not None} == {
        "cosine": 0,
        "max_abs": 1,
        "error_p50": 1,
        "error_p99": 1,
        "error_p999": 1,
        "argmax_agreement": 1,
        "probability_distance": 0,
        "non_finite": 0,
    }
    assert comparison.measured()["max_rel"] == math.inf
