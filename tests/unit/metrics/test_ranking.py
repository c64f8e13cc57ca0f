from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mmtrt.metrics import make_task_metric
from mmtrt.tensors import Array

TIES = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0])
"""So few values that equal ones are common."""


def measured(name: str, outputs: Array, labels: Array, data: st.DataObject) -> float:
    """The metric, with the rows added in up to four batches."""
    metric = make_task_metric(name)
    where = data.draw(st.lists(st.integers(0, len(labels)), max_size=3).map(sorted))
    for a, b in zip(np.split(outputs, where), np.split(labels, where), strict=True):
        metric.add(a, b)
    return metric.value


# ------------------------------------------------------------------------------------------------------ hit at 5


@given(st.data())
def test_a_hit_has_fewer_than_five_rivals_that_it_does_not_beat(data: st.DataObject) -> None:
    rows, classes = data.draw(st.integers(1, 6)), data.draw(st.integers(6, 9))
    logits = data.draw(npst.arrays(np.float32, (rows, classes), elements=TIES))
    labels = data.draw(npst.arrays(np.int64, rows, elements=st.integers(-1, classes - 1)))
    hits = [
        sum(other >= row[label] for i, other in enumerate(row) if i != label) < 5
        for row, label in zip(logits, labels, strict=True)
        if label != -1
    ]
    wanted = sum(hits) / len(hits) if hits else math.nan
    assert measured("hit_at_5", logits, labels, data) == pytest.approx(wanted, nan_ok=True)


def test_a_class_that_all_others_equal_or_are_nan_beside_is_no_hit() -> None:
    for logits in (np.zeros((1, 6)), np.array([[1.0, *[math.nan] * 5]]), np.array([[math.nan, *[0.0] * 5]])):
        metric = make_task_metric("hit_at_5")
        metric.add(logits, np.array([0]))
        assert metric.value == 0


@pytest.mark.parametrize(
    ("classes", "label", "words"), [(5, 0, "too few"), (6, 6, "not one of"), (6, -2, "not one of")]
)
def test_hits_among_too_few_classes_or_of_none_are_refused(classes: int, label: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_task_metric("hit_at_5").add(np.zeros((1, classes)), np.array([label]))


# --------------------------------------------------------------------------------------------------------- auroc


@pytest.mark.parametrize("width", [1, 2])
@given(st.data())
def test_the_area_is_the_share_of_pairs_in_order_with_ties_as_half(width: int, data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 9))
    logits = data.draw(npst.arrays(np.float32, (rows, width), elements=TIES))
    labels = data.draw(npst.arrays(np.int64, rows, elements=st.integers(-1, 1)))
    score = logits[:, -1] - (logits[:, 0] if width == 2 else 0)
    pairs = list(product(score[labels == 1], score[labels == 0]))
    wanted = sum((one > zero) + 0.5 * (one == zero) for one, zero in pairs) / len(pairs) if pairs else math.nan
    assert measured("auroc", logits, labels, data) == pytest.approx(wanted, nan_ok=True)


@given(npst.arrays(np.float32, (12, 1), elements=TIES), st.permutations([0, 1] * 6))
def test_the_area_of_turned_scores_is_the_rest(logits: Array, labels: list[int]) -> None:
    there, back = make_task_metric("auroc"), make_task_metric("auroc")
    there.add(logits, np.array(labels))
    back.add(-logits, np.array(labels))
    assert there.value + back.value == pytest.approx(1)


def test_a_score_that_is_nan_has_no_area_unless_it_does_not_count() -> None:
    logits = np.array([[1.0], [0.0], [math.nan]])
    for last, wanted in ((1, math.nan), (-1, 1.0)):
        metric = make_task_metric("auroc")
        metric.add(logits, np.array([1, 0, last]))
        assert metric.value == pytest.approx(wanted, nan_ok=True)


def test_an_area_of_three_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="no two classes"):
        make_task_metric("auroc").add(np.zeros((2, 3)), np.array([0, 1]))
    with pytest.raises(ValueError, match="0, 1 or -1"):
        make_task_metric("auroc").add(np.zeros((2, 2)), np.array([0, 2]))


# -------------------------------------------------------------------------------------------------- recall at one


def recalled(embeddings: Array, labels: Array) -> float:
    """Each query of either side against each embedding of the other, one by one."""
    hits = []
    for side in (0, 1):
        for row, label in enumerate(labels[:, side]):
            gallery = [
                (e @ embeddings[row, side], g)
                for e, g in zip(embeddings[:, 1 - side], labels[:, 1 - side], strict=True)
                if g != -1
            ]
            own = [near for near, g in gallery if g == label]
            if label != -1 and own:
                hits.append(all(max(own) > near for near, g in gallery if g != label))
    return sum(hits) / len(hits) if hits else math.nan


@given(st.data())
def test_recall_is_what_each_query_finds_in_the_whole_set(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 7))
    embeddings = data.draw(npst.arrays(np.float32, (rows, 2, 2), elements=TIES))
    labels = data.draw(npst.arrays(np.int64, (rows, 2), elements=st.integers(-1, 4)))
    wanted = recalled(embeddings, labels)
    assert measured("recall_at_1", embeddings, labels, data) == pytest.approx(wanted, nan_ok=True)


def test_a_gallery_larger_than_what_is_held_at_a_time_is_searched_whole() -> None:
    rng = np.random.default_rng(0)
    image = rng.standard_normal((1300, 64)).astype(np.float32)
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    text = np.where(np.arange(1300)[:, None] % 4 == 3, -image, image)
    metric = make_task_metric("recall_at_1")
    metric.add(np.stack([image, text], axis=1), np.stack([np.arange(1300)] * 2, axis=1))
    assert metric.value == 0.75


def test_an_encoder_that_says_the_same_of_all_finds_nothing() -> None:
    for value in (1.0, math.nan):
        metric = make_task_metric("recall_at_1")
        metric.add(np.full((4, 2, 3), value), np.stack([np.arange(4)] * 2, axis=1))
        assert metric.value == 0
