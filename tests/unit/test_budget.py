from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmtrt.errors import UsageError
from mmtrt.parity.budget import (
    AT_LEAST,
    AT_MOST,
    DEFAULTS,
    check_names,
    default_budget,
    for_output,
    parse_budget,
    violations,
)

METRICS = st.sampled_from(AT_LEAST + AT_MOST)
NUMBERS = st.floats(-1e6, 1e6)


def judge(metric: str, value: float | None, bound: float) -> tuple[str, ...]:
    measured = {} if value is None else {metric: value}
    return violations(measured, measured, {metric: bound})


@given(METRICS, NUMBERS)
def test_nan_never_passes_on_either_side(metric: str, number: float) -> None:
    assert judge(metric, math.nan, number)
    assert judge(metric, number, math.nan)


@given(METRICS, NUMBERS)
def test_a_metric_that_is_missing_fails(metric: str, bound: float) -> None:
    assert judge(metric, None, bound) == (f"{metric} was not measured",)


@given(METRICS, NUMBERS)
def test_the_bound_itself_passes(metric: str, bound: float) -> None:
    assert not judge(metric, bound, bound)


@given(METRICS, NUMBERS, st.floats(1e-6, 1e6))
def test_beyond_the_bound_fails_and_on_this_side_passes(metric: str, bound: float, by: float) -> None:
    worse = bound - by if metric in AT_LEAST else bound + by
    better = bound + by if metric in AT_LEAST else bound - by
    assert judge(metric, worse, bound)[0].startswith(metric)
    assert not judge(metric, better, bound)


@given(METRICS.filter(lambda metric: not metric.endswith("_drop")), st.floats(0.1, 100))
def test_there_is_no_slack_but_for_drops(metric: str, bound: float) -> None:
    assert judge(metric, math.nextafter(bound, -math.inf if metric in AT_LEAST else math.inf), bound)


def test_a_difference_of_shares_is_not_failed_by_rounding() -> None:
    assert 0.993 - 0.992 > 0.001
    assert not judge("accuracy_drop", 0.993 - 0.992, 0.001)
    assert judge("accuracy_drop", 0.00101, 0.001)


def test_a_drop_is_looked_for_among_the_drops() -> None:
    assert violations({"accuracy_drop": 0.0}, {}, {"accuracy_drop": 0.1}) == ("accuracy_drop was not measured",)
    assert violations({"sqnr_db": math.inf}, {"f1_drop": 0.5}, {"sqnr_db": 200, "f1_drop": 0.1}) == (
        "f1_drop 0.5 is above 0.1",
    )


def test_what_is_not_known_is_held_to_fp32() -> None:
    assert default_budget("int8") is DEFAULTS["int8"]
    assert default_budget("fp8") is DEFAULTS["fp32"]
    assert DEFAULTS["fp32"]["sqnr_db"] > DEFAULTS["fp16"]["sqnr_db"] > DEFAULTS["int8"]["sqnr_db"]


def test_budgets_are_read() -> None:
    assert parse_budget(["sqnr_db=20", " answer:cosine = 0.99", "a:0:max_abs=1e-3"]) == {
        "sqnr_db": 20,
        "answer:cosine": 0.99,
        "a:0:max_abs": 0.001,
    }


@pytest.mark.parametrize(
    "text", ["sqnr_db", "sqnr_db=", "sqnr_db=much", "sqnr_db=nan", "sqnr_db=1=2", "sqnr_db=-inf", "max_abs=1e999", ""]
)
def test_what_is_no_budget_is_quoted(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_budget([text])
    assert repr(text) in caught.value.message


def test_an_output_s_name_may_hold_an_equals_sign() -> None:
    assert parse_budget(["masked/a=b:sqnr_db=20"]) == {"masked/a=b:sqnr_db": 20}


def test_an_output_s_own_bound_comes_before_that_of_all() -> None:
    budget = {"sqnr_db": 20.0, "cosine": 0.9, "answer:sqnr_db": 30.0, "match:cosine": 0.5, "a:0:sqnr_db": 40.0}
    assert for_output(budget, "answer") == {"sqnr_db": 30, "cosine": 0.9}
    assert for_output(budget, "match") == {"sqnr_db": 20, "cosine": 0.5}
    assert for_output(budget, "a:0") == {"sqnr_db": 40, "cosine": 0.9}
    assert for_output(budget, "a") == {"sqnr_db": 20, "cosine": 0.9}


@pytest.mark.parametrize(
    ("key", "message", "fix"),
    [
        ("sqnr", "names no known metric", "Did you mean 'sqnr_db'?"),
        ("answer:cosin", "names no known metric", "Did you mean 'cosine'?"),
        ("zzz", "names no known metric", "Known are sqnr_db"),
        ("anser:cosine", "names no output", "Did you mean 'answer'?"),
        ("zzz:cosine", "names no output", "The outputs are answer, match."),
        (":cosine", "names no output", "The outputs are"),
        ("accuracy_drop", "not measured", "parity.metrics"),
        ("match:f1_drop", "not measured", "parity.metrics"),
        ("answer:f1_drop", "not measured", "parity.metrics"),
        ("phrase_agreement", "is for phrases, and there are none", "a pipeline with a step"),
        ("answer:phrase_agreement", "'answer' generates none", "a pipeline with a step"),
    ],
)
def test_a_budget_that_judges_nothing_is_refused(key: str, message: str, fix: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        check_names({key: 1.0}, ["answer", "match"], {"answer": ["exact_phrase"]})
    assert repr(key) in caught.value.message
    assert fix in str(caught.value.fix)


def test_a_budget_for_the_phrases_of_another_output_is_refused() -> None:
    with pytest.raises(UsageError, match="'answer' generates none") as caught:
        check_names({"answer:phrase_agreement": 0.9}, ["answer", "logits"], phrases=["logits"])
    assert caught.value.fix == "It holds for logits."
    for key in ("phrase_agreement", "logits:phrase_agreement"):
        check_names({key: 0.9}, ["answer", "logits"], phrases=["logits"])


def test_a_budget_that_judges_something_is_not() -> None:
    tasks = {"answer": ["accuracy"], "a:0": ["f1"]}
    check_names(
        {"sqnr_db": 1, "answer:accuracy_drop": 0.1, "f1_drop": 0.1, "a:0:f1_drop": 0.1}, ["answer", "a:0"], tasks
    )
