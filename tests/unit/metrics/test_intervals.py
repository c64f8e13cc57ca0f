"""Wilson's interval, how many samples would tell, and the paired bootstrap of a drop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmtrt.metrics import TASK_METRICS, make_task_metric
from mmtrt.metrics.intervals import samples_needed, wilson_interval
from mmtrt.metrics.resampling import drop_interval
from mmtrt.tensors import Array

Z = 1.959963984540054
SHARES = st.floats(0.0, 1.0)


@given(st.integers(1, 5000), st.data())
def test_its_ends_are_where_the_share_is_1_96_deviations_off(events: int, data: st.DataObject) -> None:
    share = data.draw(st.integers(0, events)) / events
    low, high = wilson_interval(share, events)
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            assert abs(share - end) == pytest.approx(Z * math.sqrt(end * (1 - end) / events), rel=1e-6)


def test_figures_known_from_elsewhere() -> None:
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3.
    for count, of, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson_interval(count / of, of) == pytest.approx((low, high), abs=5e-5)
    assert wilson_interval(1.0, 0) == (0, 1)
    assert wilson_interval(math.nan, 5) == (0, 1)


@given(SHARES, st.floats(0.01, 0.99))
def test_so_many_samples_tell_and_one_fewer_do_not(share: float, bound: float) -> None:
    needed = samples_needed(share, bound)
    if needed is None or needed > 10**7:
        return

    def told(events: int) -> bool:
        low, high = wilson_interval(share, events)
        return low >= bound or high < bound

    assert told(needed + 1)
    assert needed <= 2 or not told(needed - 1)


def test_what_no_number_of_samples_tells() -> None:
    assert samples_needed(0.9, 0.9) is None
    assert samples_needed(1.0, 1.0) is None
    assert samples_needed(1.0, 0.99) == 381


# ------------------------------------------------------------------------------------------------------ a drop


def events(name: str, rng: np.random.Generator, count: int) -> tuple[Array, Array, Array]:
    """A reference's outputs, a noisier candidate's, and labels."""
    if name == "recall_at_1":
        anchors = rng.standard_normal((count, 1, 8))
        told = np.repeat(anchors, 2, axis=1) + 0.1 * rng.standard_normal((count, 2, 8))
        return told, told + 0.8 * rng.standard_normal(told.shape), np.repeat(np.arange(count)[:, None], 2, axis=1)
    if name == "center_ap":
        told = rng.standard_normal((count, 2, 6, 6))
        labels = np.stack([rng.integers(0, 2, (count, 2)), *rng.integers(0, 6, (2, count, 2))], axis=-1)
        for event, things in enumerate(labels):
            for kind, row, column in things:
                told[event, kind, row, column] += 6
        return told, told + 3 * rng.standard_normal(told.shape), labels
    classes = {"hit_at_5": 12}.get(name, 2)
    labels = rng.integers(0, classes, count)
    told = np.eye(classes)[labels] * 2 + rng.standard_normal((count, classes))
    return told, told + rng.standard_normal(told.shape), labels


@pytest.mark.parametrize("name", TASK_METRICS)
def test_a_resampled_metric_is_that_of_the_events_drawn(name: str) -> None:
    rng = np.random.default_rng(1)
    told, _, labels = events(name, rng, 30)
    metric = make_task_metric(name)
    for part in np.array_split(np.arange(30), 4):
        metric.add(told[part], labels[part])
    assert metric.events == 30
    weights = rng.multinomial(30, np.full(30, 1 / 30), size=5)
    found = metric.resampled(weights)
    assert metric.resampled(np.ones((1, 30), dtype=np.int64))[0] == pytest.approx(metric.value)
    if name == "recall_at_1":
        return  # Its gallery stays as it is.
    for row, value in zip(weights, found, strict=True):
        drawn = np.repeat(np.arange(30), row)
        again = make_task_metric(name)
        again.add(told[drawn], labels[drawn])
        assert value == pytest.approx(again.value)


@pytest.mark.parametrize("name", TASK_METRICS)
def test_the_interval_of_a_drop_holds_the_drop_and_narrows(name: str) -> None:
    widths = []
    for count in (40, 160):
        told, got, labels = events(name, np.random.default_rng(2), count)
        metrics = [make_task_metric(name) for _ in range(2)]
        for metric, outputs in zip(metrics, (told, got), strict=True):
            metric.add(outputs, labels)
        interval = drop_interval(*metrics)
        assert interval is not None
        assert interval == drop_interval(*metrics), "the same each time"
        assert interval[0] <= metrics[0].value - metrics[1].value <= interval[1]
        widths.append(interval[1] - interval[0])
    assert widths[1] < widths[0]


def test_what_both_sides_get_wrong_alike_widens_nothing() -> None:
    labels = np.arange(100) % 2
    outputs = np.eye(2)[np.where(np.arange(100) % 3 == 0, 1 - labels, labels)]
    metrics = [make_task_metric("accuracy") for _ in range(2)]
    for metric in metrics:
        metric.add(outputs, labels)
    assert drop_interval(*metrics) == (0, 0)


def test_one_event_or_sides_of_other_events_have_no_interval() -> None:
    one, two, none = (make_task_metric("accuracy") for _ in range(3))
    one.add(np.eye(2)[:1], np.array([0]))
    two.add(np.eye(2), np.array([0, 1]))
    assert drop_interval(one, one) is drop_interval(two, one) is drop_interval(none, none) is None
    blind = make_task_metric("auroc")
    blind.add(np.full((3, 2), math.nan), np.array([0, 1, 1]))
    assert drop_interval(blind, blind) is None
