from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mmtrt.metrics import TASK_METRICS, make_task_metric
from mmtrt.tensors import Array

COUNTING = ("accuracy", "f1", "exact_phrase")


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


@pytest.mark.parametrize("name", COUNTING)
@given(heads(), st.data())
def test_task_metrics_are_what_counting_by_hand_says(name: str, head: tuple[Array, Array], data: st.DataObject) -> None:
    logits, labels = head
    metric = make_task_metric(name)
    where = data.draw(st.lists(st.integers(0, len(logits)), max_size=3).map(sorted))
    for a, b in zip(np.split(logits, where), np.split(labels, where), strict=True):
        metric.add(a, b)
    assert metric.value == pytest.approx(brute(name, logits, labels), nan_ok=True)


EMPTY = {
    "recall_at_1": (np.ones((2, 2, 3)), np.full((2, 2), -1)),
    "auroc": (np.eye(2), np.array([-1, -1])),
    "center_ap": (np.zeros((2, 1, 4, 4)), np.full((2, 5, 3), -1)),
}


@pytest.mark.parametrize("name", TASK_METRICS)
def test_where_no_label_counts_there_is_no_number(name: str) -> None:
    metric = make_task_metric(name)
    assert math.isnan(metric.value)
    metric.add(*EMPTY.get(name, (np.eye(7)[[0, 0]], np.array([-1, -1]))))
    assert math.isnan(metric.value)


@pytest.mark.parametrize("name", TASK_METRICS)
def test_labels_of_another_shape_are_refused(name: str) -> None:
    outputs, labels = EMPTY.get(name, (np.eye(7)[[0, 0]], np.array([-1, -1])))
    with pytest.raises(ValueError, match=r"labels .*(belong together|two classes|are not)"):
        make_task_metric(name).add(outputs, labels[..., None])


def test_one_logit_is_class_1_above_0() -> None:
    metric = make_task_metric("accuracy")
    metric.add(np.array([[0.5], [-0.5], [0.0], [2.0]]), np.array([1, 0, 1, -1]))
    assert metric.value == pytest.approx(2 / 3)


def test_an_unknown_metric_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        make_task_metric("bleu")
