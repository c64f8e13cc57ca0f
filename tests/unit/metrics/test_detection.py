from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mmtrt.metrics import make_task_metric
from mmtrt.metrics.detection import CenterAp, local_maxima
from mmtrt.tensors import Array

TIES = st.sampled_from([-3.0, -1.0, 0.0, 0.25, 2.0])
"""So few values that equal neighbours and equal scores are common."""


def peaks_by_definition(heatmap: Array) -> list[tuple[float, int, int]]:
    """Cells from the highest down, then in reading order, that no neighbour beats or equals from before."""
    rows, columns = heatmap.shape
    found = []
    for row, column in product(range(rows), range(columns)):
        around = [
            (r, c)
            for r, c in product(range(row - 1, row + 2), range(column - 1, column + 2))
            if (r, c) != (row, column) and 0 <= r < rows and 0 <= c < columns
        ]
        here = heatmap[row, column]
        if all(here > heatmap[r, c] or (here == heatmap[r, c] and (r, c) > (row, column)) for r, c in around):
            found.append((-float(here), row, column))
    return sorted(found)


def average_precision_by_definition(heatmaps: Array, labels: Array, kind: int, distance: float) -> float | None:
    things, found = 0, []
    for heatmap, own in zip(heatmaps, labels, strict=True):
        left = [(float(r), float(c)) for k, r, c in own if k == kind]
        things += len(left)
        for minus, row, column in peaks_by_definition(heatmap[kind])[:64]:
            near = sorted((math.dist((row, column), place), i) for i, place in enumerate(left))
            right = bool(near) and near[0][0] <= distance
            if right:
                del left[near[0][1]]
            found.append((-minus, right))
    if not things:
        return None
    points = []
    for least in sorted({score for score, _ in found}, reverse=True):
        kept = [right for score, right in found if score >= least]
        points.append((sum(kept) / things, sum(kept) / len(kept)))
    area, before = 0.0, 0.0
    for recall, _ in points:
        area += (recall - before) * max((p for r, p in points if r >= recall), default=0.0)
        before = recall
    return area


def scenes(data: st.DataObject) -> tuple[Array, Array]:
    events, kinds = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 2))
    rows, columns = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    heatmaps = data.draw(npst.arrays(np.float32, (events, kinds, rows, columns), elements=TIES))
    # Thirds keep two things from being equally near.
    place = st.tuples(
        st.integers(-1, kinds - 1),
        st.integers(0, 3 * rows - 3).map(lambda v: v / 3 + 0.01),
        st.integers(0, 3 * columns - 3).map(lambda v: v / 3 + 0.023),
    )
    things = st.lists(place, min_size=3, max_size=3)
    labels = np.array([data.draw(things) for _ in range(events)], dtype=np.float32)
    return heatmaps, labels


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_it_is_what_the_definition_says_however_batches_are_cut(data: st.DataObject) -> None:
    heatmaps, labels = scenes(data)
    metric = make_task_metric("center_ap")
    for one in np.array_split(data.draw(st.permutations(range(len(labels)))), 2):
        if len(one):
            metric.add(heatmaps[one], labels[one])
    each = [
        average_precision_by_definition(heatmaps, labels, kind, distance)
        for kind in range(heatmaps.shape[1])
        for distance in CenterAp.distances
    ]
    told = [value for value in each if value is not None]
    if told:
        assert metric.value == pytest.approx(sum(told) / len(told))
    else:
        assert math.isnan(metric.value)


@given(npst.arrays(np.float64, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=TIES))
def test_peaks_are_above_their_neighbours(heatmap: Array) -> None:
    wanted = {(row, column) for _, row, column in peaks_by_definition(heatmap)}
    assert set(zip(*map(list, np.nonzero(local_maxima(heatmap))), strict=True)) == wanted


def heatmap_of(*things: tuple[int, int, float]) -> Array:
    heatmap = np.full((1, 1, 9, 9), -9.0, dtype=np.float32)
    for row, column, score in things:
        heatmap[0, 0, row, column] = score
    return heatmap


def test_a_thing_is_found_once() -> None:
    metric = CenterAp()
    metric.add(heatmap_of((4, 4, 3.0), (4, 6, 2.0)), np.array([[[0, 4, 4]]]))
    twice = metric.value
    metric = CenterAp()
    metric.add(heatmap_of((4, 4, 3.0), (4, 6, 2.0)), np.array([[[0, 4, 4], [0, 4, 6]]]))
    assert (twice, metric.value) == (1.0, 1.0)


def test_what_is_farther_off_counts_at_fewer_distances() -> None:
    label = np.array([[[0, 4, 4]]])
    for off, wanted in ((1, 1.0), (2, 2 / 3), (4, 1 / 3)):
        metric = CenterAp()
        metric.add(heatmap_of((4, 4 + off, 3.0)), label)
        assert metric.value == pytest.approx(wanted)


def test_nan_finds_nothing_and_no_thing_is_no_score() -> None:
    metric = CenterAp()
    metric.add(np.full((1, 1, 9, 9), np.nan, dtype=np.float32), np.array([[[0, 4, 4]]]))
    assert metric.value == 0.0
    metric = CenterAp()
    assert math.isnan(metric.value)
    metric.add(heatmap_of((4, 4, 3.0)), np.array([[[-1, 0, 0]]]))
    assert math.isnan(metric.value)


def test_what_does_not_belong_together_is_refused() -> None:
    metric = CenterAp()
    with pytest.raises(ValueError, match=r"are not \(B, C, H, W\) and \(B, M, 3\)"):
        metric.add(np.zeros((2, 1, 9, 9)), np.zeros((1, 4, 3)))
    with pytest.raises(ValueError, match="not one of the 1 classes"):
        metric.add(np.zeros((1, 1, 9, 9)), np.array([[[1, 0, 0]]]))
