from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mmtrt.metrics import TASK_METRICS, Comparison, make_task_metric
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


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 2\)"):
        Comparison().add(np.zeros((2, 3)), np.zeros((3, 2)))


def test_values_are_plain_and_infinities_none() -> None:
    comparison = Comparison()
    comparison.add(np.zeros((1, 2)), np.ones((1, 2)))
    assert comparison.values() == {
        "sqnr_db": None,
        "cosine": 0,
        "max_abs": 1,
        "rel_l2": None,
        "argmax_agreement": 1,
        "non_finite": 0,
    }


# ------------------------------------------------------------------------------------------------- task metrics


@st.composite
def heads(draw: st.DrawFn) -> tuple[Array, Array]:
    shape = draw(npst.array_shapes(min_dims=1, max_dims=2, max_side=5))
    classes = draw(st.integers(2, 4))
    logits = draw(npst.arrays(np.float32, (*shape, classes), elements=st.floats(-5, 5, width=16), unique=True))
    return logits, draw(npst.arrays(np.int64, shape, elements=st.integers(-1, classes - 1)))


def brute(name: str, logits: Array, labels: Array) -> float:
    if name == "exact_phrase":
        asked = right = 0
        for row, wanted in zip(logits, labels, strict=True):
            told = [int(np.argmax(r)) for r in row.reshape(-1, logits.shape[-1])]
            counted = [(t, w) for t, w in zip(told, wanted.reshape(-1), strict=True) if w != -1]
            asked += bool(counted)
            right += bool(counted) and all(t == w for t, w in counted)
        return right / asked if asked else math.nan
    told = [int(np.argmax(r)) for r in logits.reshape(-1, logits.shape[-1])]
    counted = [(t, w) for t, w in zip(told, labels.reshape(-1), strict=True) if w != -1]
    if name == "accuracy":
        return sum(t == w for t, w in counted) / len(counted) if counted else math.nan
    hits = sum(t == w == 1 for t, w in counted)
    said, are = sum(t == 1 for t, _ in counted), sum(w == 1 for _, w in counted)
    if not said + are:
        return math.nan
    return 2 * hits / (said + are)


@pytest.mark.parametrize("name", TASK_METRICS)
@given(heads(), st.data())
def test_task_metrics_are_what_counting_by_hand_says(name: str, head: tuple[Array, Array], data: st.DataObject) -> None:
    logits, labels = head
    metric = make_task_metric(name)
    where = [cut for cut in cuts(data, len(logits)) if 0 < cut < len(logits)]
    for a, b in zip(np.split(logits, sorted(set(where))), np.split(labels, sorted(set(where))), strict=True):
        metric.add(a, b)
    assert metric.value == pytest.approx(brute(name, logits, labels), nan_ok=True)


@pytest.mark.parametrize("name", TASK_METRICS)
def test_where_no_label_counts_there_is_no_number(name: str) -> None:
    metric = make_task_metric(name)
    assert math.isnan(metric.value)
    metric.add(np.eye(3)[[0, 0]], np.array([-1, -1]))
    assert math.isnan(metric.value)


def test_labels_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="belong together"):
        make_task_metric("accuracy").add(np.zeros((2, 3)), np.zeros((2, 1)))


def test_an_unknown_metric_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        make_task_metric("bleu")
