"""What rows say: order, probabilities, boxes; each against a plain formula, row by row."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mmtrt.metrics import Comparison
from mmtrt.metrics.boxes import box_overlaps
from mmtrt.metrics.rows import rank_correlations, variation_distances
from mmtrt.tensors import Array

FEW = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 3.0])
"""So few values that equal ones are common."""


def pair(data: st.DataObject, elements: st.SearchStrategy[float], width: st.SearchStrategy[int]) -> tuple[Array, Array]:
    shape = (data.draw(st.integers(1, 5)), data.draw(width))
    return (
        data.draw(npst.arrays(np.float64, shape, elements=elements)),
        data.draw(npst.arrays(np.float64, shape, elements=elements)),
    )


def ranks(row: Array) -> list[float]:
    return [float((row < value).sum() + ((row == value).sum() - 1) / 2) for value in row]


@given(st.data())
def test_rank_correlation_is_pearson_s_of_ranks_that_ties_share(data: st.DataObject) -> None:
    left, right = pair(data, FEW, st.integers(3, 6))
    wanted = []
    for a, b in zip(left, right, strict=True):
        if len(set(a)) > 1:
            wanted.append(np.corrcoef(ranks(a), ranks(b))[0, 1] if len(set(b)) > 1 else 0.0)
    assert rank_correlations(left, right).tolist() == pytest.approx(wanted)
    comparison = Comparison()
    comparison.add(left, right)
    told = comparison.measured()["rank_correlation"]
    assert told == pytest.approx(np.mean(wanted)) if wanted else told is None


@given(st.data())
def test_probability_distance_is_half_the_sum_of_differences(data: st.DataObject) -> None:
    left, right = pair(data, st.floats(-30, 30), st.integers(1, 5))
    wanted = []
    for a, b in zip(left, right, strict=True):
        if len(a) == 1:
            wanted.append(abs(1 / (1 + math.exp(-a[0])) - 1 / (1 + math.exp(-b[0]))))
        else:
            p, q = np.exp(a) / np.exp(a).sum(), np.exp(b) / np.exp(b).sum()
            wanted.append(float(np.abs(p - q).sum() / 2))
    assert variation_distances(left, right).tolist() == pytest.approx(wanted, abs=1e-12)
    each = [abs(1 / (1 + math.exp(-a)) - 1 / (1 + math.exp(-b))) for a, b in zip(left.flat, right.flat, strict=True)]
    assert variation_distances(left, right, single=True).tolist() == pytest.approx(each, abs=1e-12)


def test_large_logits_overflow_nothing() -> None:
    left = np.array([[1e300, 0, -1e300], [-math.inf, 1, 2]])
    assert variation_distances(left, left).tolist() == [0, 0]
    assert variation_distances(left[:1], left[:1, ::-1]).tolist() == [1]


def test_one_number_a_sample_says_yes_by_its_sigmoid() -> None:
    comparison = Comparison("classes")
    comparison.add(np.array([0.0, 0.0]), np.array([100.0, 0.0]))
    assert comparison.measured()["probability_distance"] == pytest.approx(0.25)
    assert comparison.measured()["rank_correlation"] is None


def test_rows_that_are_not_finite_are_left_out_but_for_masked_classes() -> None:
    left = np.array([[1.0, 2.0, -math.inf], [1.0, math.nan, 0.0], [3.0, 2.0, 1.0]])
    right = np.array([[2.0, 1.0, -math.inf], [1.0, 2.0, 0.0], [3.0, 2.0, 1.0]])
    comparison = Comparison()
    comparison.add(left, right)
    found = comparison.measured()
    swapped = np.exp(2) / (np.exp(1) + np.exp(2)) - 0.5
    assert found["probability_distance"] == pytest.approx(swapped * 2 / 2)
    assert found["rank_correlation"] == pytest.approx((0.5 + 1) / 2)


@given(st.data(), st.integers(1, 4))
def test_batches_in_any_split_say_the_same(data: st.DataObject, rows: int) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    left = rng.standard_normal((rows, 700, 3))
    right = left + 0.3 * rng.standard_normal(left.shape)
    whole, split = Comparison(), Comparison()
    whole.add(left, right)
    for a, b in zip(left, right, strict=True):
        split.add(a[None], b[None])
    for name, value in whole.measured().items():
        assert split.measured()[name] == (None if value is None else pytest.approx(value)), name
    assert split.events == whole.events == rows


# --------------------------------------------------------------------------------------------------------- boxes

CORNERS = st.integers(0, 6)


@given(st.lists(st.tuples(*[CORNERS] * 4), min_size=1, max_size=4), st.lists(st.tuples(*[CORNERS] * 4), min_size=4))
def test_an_overlap_is_that_of_the_cells_in_both(ours: list[tuple[int, ...]], theirs: list[tuple[int, ...]]) -> None:
    left, right = np.array(ours), np.array(theirs[: len(ours)])

    def cells(box: Array) -> set[tuple[int, int]]:
        return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}

    wanted = []
    for a, b in zip(left, right, strict=True):
        union = cells(a) | cells(b)
        wanted.append(len(cells(a) & cells(b)) / len(union) if union else float((a == b).all()))
    assert box_overlaps(left, right, "xyxy").tolist() == pytest.approx(wanted)
    sized = [np.concatenate([(b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2]], axis=1) for b in (left, right)]
    assert box_overlaps(*sized, "cxcywh").tolist() == pytest.approx(wanted)


def test_boxes_are_measured_where_it_is_said_what_they_are() -> None:
    left = np.array([[[0.0, 0, 2, 2], [0, 0, 1, 1]]])
    right = np.array([[[0.0, 0, 2, 1], [0, 0, 1, 1]]])
    comparison = Comparison("boxes-xyxy")
    comparison.add(left, right)
    found = comparison.measured()
    assert found["box_iou"] == 0.75
    assert found["probability_distance"] is None
    unsaid = Comparison()
    unsaid.add(left, right)
    assert unsaid.measured()["box_iou"] is None
    with pytest.raises(ValueError, match="four numbers"):
        Comparison("boxes-cxcywh").add(np.zeros((2, 5)), np.zeros((2, 5)))


def test_integers_agree_or_don_t() -> None:
    comparison = Comparison()
    comparison.add(np.array([[3, 4], [5, 6]]), np.array([[3, 4], [5, 7]]))
    found = comparison.measured()
    assert comparison.kind == "integers"
    assert found["value_agreement"] == 0.75
    assert found["explained_variance"] is found["argmax_agreement"] is None
