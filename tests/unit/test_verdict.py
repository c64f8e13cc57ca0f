"""What is held, what fails, and what too few samples can't tell: planted cases through the whole comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmtrt.errors import UsageError
from mmtrt.metrics import KINDS, Comparison
from mmtrt.parity.budget import AT_LEAST, MAGNITUDE, check_names, held, layered, parse_heads
from mmtrt.parity.defaults import DEFAULTS, head_defaults
from mmtrt.parity.tally import Tally
from mmtrt.parity.tasks import Tasks
from mmtrt.parity.verdict import Judgement, judge, seen_out, whole_verdict
from mmtrt.results import OutputResult
from mmtrt.tensors import Array

PRECISIONS = st.sampled_from(["fp32", "fp16", "int8"])
ANY_KIND = st.sampled_from(["", *KINDS])


def verdict(
    reference: Array,
    candidate: Array,
    budget: Mapping[str, float] | None = None,
    precision: str = "int8",
    kind: str = "",
) -> Judgement:
    comparison = Comparison(kind)
    comparison.add(reference, candidate)
    return judge("y", comparison, budget or {}, precision)


def results(
    told: Mapping[str, Array],
    got: Mapping[str, Array],
    split: Sequence[int] = (),
    precision: str = "int8",
    heads: Mapping[str, str] | None = None,
    budget: Mapping[str, float] | None = None,
) -> dict[str, OutputResult]:
    tally = Tally("b.onnx", {}, heads or {})
    parts = [{n: np.split(a, split) for n, a in side.items()} for side in (told, got)]
    for index in range(len(split) + 1):
        tally.add(*({n: pieces[index] for n, pieces in side.items()} for side in parts), {})  # type: ignore[arg-type]
    return tally.results(budget or {}, precision, Tasks({}))


def noisy(seed: int, shape: tuple[int, ...], noise: float = 0.01) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    told = rng.standard_normal(shape).astype(np.float32)
    return told, told + noise * rng.standard_normal(shape).astype(np.float32)


# ------------------------------------------------------------------------------------------------------- planted


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("kind", ["", "regression"])
def test_a_regression_head_that_collapsed_fails_beside_a_classifier_that_is_fine(precision: str, kind: str) -> None:
    told, got = noisy(0, (256, 5), 0.001)
    speed = 100 + np.random.default_rng(1).standard_normal((256, 1)).astype(np.float32)
    found = results(
        {"answer": told, "speed": speed},
        {"answer": got, "speed": np.full_like(speed, 100)},
        precision=precision,
        heads={"speed": kind} if kind else {},
    )
    assert found["answer"].verdict == "pass"
    assert found["speed"].verdict == "fail"
    assert found["speed"].metrics["sqnr_db"] > 39  # type: ignore[operator]
    assert any(why.startswith("explained_variance") for why in found["speed"].why)


@given(st.integers(0, 2**20), st.sampled_from([math.nan, math.inf, -math.inf]), PRECISIONS, ANY_KIND)
def test_one_value_that_is_not_finite_fails_whatever_the_kind(
    place: int, value: float, precision: str, kind: str
) -> None:
    told, _ = noisy(0, (16, 4))
    got = told.copy()
    got.flat[place % got.size] = value
    found = verdict(told, got, precision=precision, kind="" if kind == "integers" else kind)
    assert found.verdict == "fail"
    assert "non_finite 1 is above 0" in found.why


@given(st.sampled_from(AT_LEAST), st.floats(-1e3, 1e3))
def test_a_metric_that_is_nan_never_passes(metric: str, bound: float) -> None:
    class Broken(Comparison):
        def measured(self) -> dict[str, float | None]:
            return {**super().measured(), metric: math.nan}

    comparison = Broken()
    told, got = noisy(0, (64, 4), 0.0001)
    comparison.add(told, got)
    phrases = (math.nan, 64) if metric == "phrase_agreement" else None
    assert judge("y", comparison, {f"y:{metric}": bound}, "int8", phrases=phrases).verdict != "pass"


def test_where_the_reference_has_nothing_finite_nothing_was_told() -> None:
    nothing = np.full((8, 3), math.nan)
    found = verdict(nothing, nothing)
    assert found.verdict == "inconclusive"
    assert found.why == ("the reference has no finite value here: there was nothing to compare",)
    assert verdict(nothing, np.zeros((8, 3))).verdict == "fail"


@given(st.lists(st.integers(0, 64), max_size=4).map(sorted), PRECISIONS)
def test_batches_in_any_split_give_the_same_verdict_and_numbers(split: list[int], precision: str) -> None:
    told, got = noisy(3, (64, 4), 0.02)
    budget = {"argmax_agreement": 0.5}
    whole, parts = (results({"y": told}, {"y": got}, cut, precision, budget=budget)["y"] for cut in ((), split))
    assert (parts.verdict, parts.budget, parts.intervals) == (whole.verdict, whole.budget, whole.intervals)
    for name, value in whole.metrics.items():
        assert parts.metrics[name] == (None if value is None else pytest.approx(value)), name


# ------------------------------------------------------------------------------------------------------ too few


def agreeing(events: int, wrong: int = 0) -> tuple[Array, Array]:
    told = np.eye(3)[np.arange(events) % 3] + 1
    got = told.copy()
    got[:wrong] = np.roll(got[:wrong], 1, axis=1)
    return told, got


def judged_share(events: int, wrong: int, bound: float) -> Judgement:
    return verdict(*agreeing(events, wrong), {"argmax_agreement": bound, "sqnr_db": -40})


def test_five_samples_that_agree_do_not_show_0_99() -> None:
    found = judged_share(5, 0, 0.99)
    assert found.verdict == "inconclusive"
    assert found.why[0].startswith("argmax_agreement 1 is 0.566 to 1.000 at 95%, and 0.99 lies between")
    assert "5 samples can't tell; about 381 would" in found.why[0]
    assert judged_share(381, 0, 0.99).verdict == "pass"
    assert judged_share(380, 0, 0.99).verdict == "inconclusive"


@pytest.mark.parametrize(
    ("events", "wrong", "bound", "wanted"),
    [
        (100, 0, 0.95, "pass"),
        (100, 50, 0.95, "fail"),
        (100, 4, 0.95, "inconclusive"),
        (100, 8, 0.95, "inconclusive"),
        (100, 12, 0.95, "fail"),
        (5, 5, 0.95, "fail"),
        (5, 0, 1.0, "pass"),
        (1000, 1, 1.0, "fail"),
        (5, 0, 0.0, "pass"),
        (5, 0, 1.5, "fail"),
    ],
)
def test_a_share_passes_by_its_lower_end_and_fails_by_its_upper_one(
    events: int, wrong: int, bound: float, wanted: str
) -> None:
    assert judged_share(events, wrong, bound).verdict == wanted


def test_a_share_on_its_bound_is_told_by_no_number() -> None:
    assert "no number would: it lies on the bound" in judged_share(10, 1, 0.9).why[0]


def test_rows_of_one_event_are_one_event() -> None:
    """50 positions of a phrase don't make 10 events 500."""
    told, got = noisy(0, (10, 50, 4), 0.001)
    found = verdict(told, got, {"argmax_agreement": 0.9})
    assert found.verdict == "inconclusive"
    assert found.intervals["argmax_agreement"] == pytest.approx((0.7225, 1), abs=1e-3)


def test_a_search_takes_shares_as_its_samples_show_them() -> None:
    comparison = Comparison()
    comparison.add(*agreeing(5))
    assert seen_out("y", comparison, {"argmax_agreement": 0.99}, "int8", {}) == ()
    assert seen_out("y", comparison, {"argmax_agreement": 1.01}, "int8", {})
    assert seen_out("y", comparison, {"y:f1_drop": 0.1}, "int8", {"f1_drop": 0.2}) == ("f1_drop 0.2 is above 0.1",)


def test_few_samples_are_not_held_to_what_varies_unless_that_is_asked() -> None:
    told = 100 + np.random.default_rng(0).standard_normal((4, 1))
    assert verdict(told, np.full_like(told, 100)).verdict == "pass"
    found = verdict(told, np.full_like(told, 100), {"explained_variance": 0.5})
    assert found.verdict == "inconclusive"
    assert found.why == ("explained_variance can't be held to 0.5: 4 samples can't tell; 8 would",)
    still = verdict(np.ones((20, 2)), np.ones((20, 2)), {"y:explained_variance": 0.5})
    assert still.why == ("explained_variance can't be held to 0.5: the reference does not vary",)
    assert verdict(np.ones((20, 2)), np.ones((20, 2))).verdict == "pass"
    assert verdict(np.ones((20, 2)), np.ones((20, 2)), {"explained_variance": 0.5}).verdict == "pass"


def test_a_whole_check_fails_before_it_is_unsure() -> None:
    assert whole_verdict(["pass", "inconclusive", "fail"]) == "fail"
    assert whole_verdict(["pass", "inconclusive", "not run"]) == "inconclusive"
    assert whole_verdict(["pass", "reference not finite", "not run"]) == "pass"


# -------------------------------------------------------------------------------------------------- what is held


BUDGETS = st.dictionaries(
    st.sampled_from([*AT_LEAST, "max_abs", "max_rel", "rel_l2", "error_p50", "y:max_abs", "x:max_abs", "y:cosine"]),
    st.floats(-10, 100),
)


@given(BUDGETS, PRECISIONS, ANY_KIND)
def test_no_output_is_held_to_nothing(budget: dict[str, float], precision: str, kind: str) -> None:
    bounds = held(budget, "y", precision, kind)
    sized = {"sqnr_db", "rel_l2", "max_abs", "max_rel", "value_agreement"}
    assert bounds.keys() & sized
    assert "non_finite" in bounds


@given(PRECISIONS, st.floats(-20, 300))
def test_a_bound_on_the_error_that_is_given_stands_for_the_default_ones(precision: str, bound: float) -> None:
    bounds = held({"sqnr_db": bound}, "y", precision)
    assert {metric: b for metric, b in bounds.items() if metric in MAGNITUDE} == {"sqnr_db": bound}
    # Noise at this very bound, on an output without an offset, passes.
    assert bounds["explained_variance"] <= 1 - 10 ** (-bound / 10) or bound > 6


@pytest.mark.parametrize("bound", [15.0, 8.0, 3.0, -5.0])
def test_a_recipe_that_loosens_the_sqnr_loosens_what_follows_from_it(bound: float) -> None:
    told, noise = noisy(0, (512, 6), 10 ** (-bound / 20))
    comparison = Comparison()
    comparison.add(told, noise)
    assert abs(comparison.sqnr_db - bound) < 0.3
    assert judge("y", comparison, {"sqnr_db": bound - 0.4}, "int8").verdict == "pass"
    assert judge("y", comparison, {}, "int8").verdict == "fail"


def test_what_is_given_for_one_output_leaves_the_others_to_the_defaults() -> None:
    told, _ = noisy(0, (64, 3))
    found = results(
        {"answer": told, "match": told}, {"answer": told + 0.05, "match": told[::-1]}, budget={"answer:max_abs": 0.1}
    )
    assert found["answer"].verdict == "pass"
    assert found["answer"].budget == {"non_finite": 0, "max_abs": 0.1, "explained_variance": 0.75}
    assert found["match"].verdict == "fail"
    assert found["match"].budget == {"non_finite": 0, **head_defaults("int8")}


def test_a_cosine_alone_does_not_let_a_scale_pass() -> None:
    told, _ = noisy(0, (64, 3))
    found = verdict(told, told * 3, {"cosine": 0.95})
    assert found.verdict == "fail"
    assert found.bounds["sqnr_db"] == pytest.approx(10 * math.log10(0.95**2 / (1 - 0.95**2)) - 3)
    noise = noisy(0, (512, 3), math.sqrt(1 / 0.96**2 - 1))
    assert verdict(*noise, {"cosine": 0.95}).verdict == "pass", "noise that turns it so far and no farther"


@given(PRECISIONS, ANY_KIND)
def test_narrower_is_held_to_less(precision: str, kind: str) -> None:
    wide, own = head_defaults("fp32", kind), head_defaults(precision, kind)
    for metric, bound in own.items():
        assert bound <= wide[metric] if metric in AT_LEAST else bound >= wide[metric]
    assert kind == "integers" or DEFAULTS[precision].items() <= own.items()


def test_what_is_said_nearer_stands_for_what_is_said_farther_off() -> None:
    carried = {"sqnr_db": 15.0, "answer:cosine": 0.9, "accuracy_drop": 0.01, "answer:f1_drop": 0.1}
    both = layered({"answer:max_abs": 0.5, "f1_drop": 0.2}, carried, ["answer", "match"])
    assert held(both, "answer", "int8") == {
        "non_finite": 0,
        "max_abs": 0.5,
        "explained_variance": 0.75,
        "accuracy_drop": 0.01,
        "f1_drop": 0.2,
    }
    assert held(both, "match", "int8")["sqnr_db"] == 15
    with pytest.raises(UsageError, match="'anser:max_abs' names no output"):
        check_names(layered({"anser:max_abs": 0.5}, carried, ["answer"]), ["answer"])
    shares = {"argmax_agreement": 0.9, "value_agreement": 0.8, "ids:value_agreement": 0.7}
    several = layered({"non_finite": 0.0, "argmax_agreement": 0.5}, shares, ["answer", "ids"])
    check_names(several, ["answer", "ids"], heads={"answer": "", "ids": "integers"})
    assert held(several, "answer", "int8")["argmax_agreement"] == 0.5
    assert held(several, "ids", "int8", "integers") == {"non_finite": 0, "value_agreement": 0.7}
    assert layered({}, carried, ["answer"]) == carried
    assert layered(carried, {}, ["answer"]) == carried


# ------------------------------------------------------------------------------------------------------- heads


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_few_integers_that_all_agree_pass_unless_a_share_is_asked_for(precision: str) -> None:
    ids = np.arange(8)
    assert verdict(ids, ids, precision=precision).verdict == "pass"
    assert verdict(ids, ids, {"value_agreement": 0.9}, precision).verdict == "inconclusive"
    assert verdict(ids, np.where(ids == 3, 0, ids), precision=precision).verdict == "inconclusive"
    assert verdict(ids, ids[::-1], precision=precision).verdict == "fail"


def test_large_integers_that_are_apart_differ() -> None:
    ids = 2**60 + np.arange(128, dtype=np.int64)
    found = verdict(ids, ids + 1)
    assert found.verdict == "fail"
    assert found.why == ("value_agreement 0 is below 0.9",)
    comparison = Comparison()
    comparison.add(ids, ids + 1)
    assert comparison.max_abs == 1


def test_what_an_output_is_decides_what_it_is_held_to() -> None:
    flat = np.zeros((64, 4))
    sure = np.eye(4)[np.arange(64) % 4] * 20
    swapped = sure + np.where(np.arange(64) % 4 == 0, 1, 0)[:, None] * (np.roll(sure, 1, axis=1) - sure)
    assert any("probability_distance" in why for why in verdict(sure, swapped, {"sqnr_db": 0}, kind="classes").why)
    assert not any("probability_distance" in why for why in verdict(sure, swapped, {"sqnr_db": 0}).why)
    boxes = np.array([[0.0, 0, 4, 4], [10, 10, 12, 12]] * 16)
    moved = boxes + np.ones(4)
    found = verdict(boxes, moved, {"max_abs": 1}, kind="boxes-xyxy")
    assert [why.split()[0] for why in found.why] == ["box_iou"]
    assert verdict(flat.astype(np.int64), flat.astype(np.int64)).bounds["value_agreement"] == 0.9


@pytest.mark.parametrize(
    ("key", "heads", "fix"),
    [
        ("box_iou", {}, "box_iou is of boxes-xyxy, boxes-cxcywh"),
        ("y:probability_distance", {"y": "regression"}, "is of classes, multilabel"),
        ("worst_explained_variance", {"y": "classes"}, "is of regression"),
    ],
)
def test_a_metric_that_no_output_has_judges_nothing(key: str, heads: dict[str, str], fix: str) -> None:
    with pytest.raises(UsageError, match="for outputs of another kind") as caught:
        check_names({key: 0.5}, ["y", "z"], heads=heads or {"y": "", "z": ""})
    assert fix in str(caught.value.fix) or not heads


def test_a_bound_for_every_output_holds_where_its_metric_means_something() -> None:
    told, got = noisy(0, (64, 4), 0.001)
    found = results(
        {"boxes": np.abs(told), "answer": told},
        {"boxes": np.abs(told), "answer": got},
        heads={"boxes": "boxes-cxcywh"},
        budget={"box_iou": 0.9, "probability_distance": 0.2},
    )
    assert found["boxes"].budget["box_iou"] == 0.9
    assert "box_iou" not in found["answer"].budget
    assert "probability_distance" in found["answer"].budget
    assert "probability_distance" not in found["boxes"].budget


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("answer=clases", "Did you mean 'classes'?"),
        ("answer", "OUTPUT=KIND"),
        ("=classes", "OUTPUT=KIND"),
        ("answer=", "Known are classes"),
    ],
)
def test_heads_that_mean_nothing_are_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_heads([text])
    assert words in str(caught.value.fix)
    assert parse_heads(["a=b=classes", "x:0 = regression"]) == {"a=b": "classes", "x:0": "regression"}


@pytest.mark.parametrize(("heads", "words"), [({"anser": "classes"}, "'anser'"), ({"answer": "boxes-xyxy"}, "four")])
def test_heads_that_don_t_fit_the_model_are_refused(heads: dict[str, str], words: str) -> None:
    told: Any = {"answer": np.zeros((4, 3))}
    with pytest.raises(UsageError, match=words):
        results(told, told, heads=heads)
