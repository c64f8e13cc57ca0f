"""What may differ from an earlier check, and what fails."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmtrt.parity.drift import drift_of
from mmtrt.results import CheckResult, OutputResult, Ran, StressResult

METRICS: dict[str, float | int | None] = {
    "sqnr_db": 30.0,
    "cosine": 0.999,
    "max_abs": 0.1,
    "rel_l2": 0.0316,
    "argmax_agreement": 0.98,
    "non_finite": 0,
}


def check(*, samples: int = 200, stress: tuple[StressResult, ...] = (), **metrics: Any) -> CheckResult:
    task = {"accuracy": metrics.pop("accuracy", 0.9)}
    return CheckResult(
        verdict="pass",
        candidate=Ran(what="b", runs="y"),
        reference=Ran(what="a", runs="x"),
        samples=samples,
        outputs={"answer": OutputResult(metrics={**METRICS, **metrics}, task=task)},
        stress=stress,
    )


def case(verdict: Any = "pass", sqnr_db: float | None = 30.0, non_finite: int = 0) -> StressResult:
    metrics = {"sqnr_db": sqnr_db, "max_abs": 0.1, "non_finite": non_finite}
    output = OutputResult(metrics=metrics, verdict=verdict)
    return StressResult(kind="masked", name="image", sizes={}, outputs={"answer": output}, verdict=verdict)


def worse(before: CheckResult, now: CheckResult) -> list[str]:
    return [change.metric for change in drift_of(before, now).worse]


@pytest.mark.parametrize(
    ("metric", "tolerated", "not_tolerated"),
    [
        ("sqnr_db", 29.1, 28.9),
        ("cosine", 0.99875, 0.9987),
        ("max_abs", 0.149, 0.151),
        ("rel_l2", 0.0354, 0.0356),
        ("argmax_agreement", 0.951, 0.949),
        ("accuracy", 0.852, 0.849),
        ("non_finite", 0, 1),
    ],
)
def test_each_metric_may_move_a_little(metric: str, tolerated: float, not_tolerated: float) -> None:
    assert worse(check(), check(**{metric: tolerated})) == []
    assert worse(check(), check(**{metric: not_tolerated})) == [metric]


def test_rounding_in_another_order_is_no_drift() -> None:
    before = check(sqnr_db=135.0, cosine=1 - 1e-13, max_abs=6e-8, rel_l2=1.8e-7, argmax_agreement=1.0)
    other = check(sqnr_db=130.0, cosine=1 - 3e-13, max_abs=1.1e-7, rel_l2=3.2e-7, argmax_agreement=1.0)
    assert worse(before, other) == []
    assert worse(before, replace(other, outputs=check(sqnr_db=95.0).outputs))[0] == "sqnr_db"


def test_an_exact_match_may_become_rounding_and_not_more() -> None:
    exact = {"sqnr_db": None, "max_abs": 0.0, "cosine": 1.0, "rel_l2": 0.0, "argmax_agreement": 1.0}
    assert "sqnr_db" not in worse(check(**exact), check(sqnr_db=120.0))
    assert "sqnr_db" in worse(check(**exact), check(sqnr_db=60.0))
    # None is no match at all where there is an error.
    assert "sqnr_db" in worse(check(), check(sqnr_db=None))


def test_few_samples_leave_more_open() -> None:
    assert worse(check(samples=20), check(samples=20, argmax_agreement=0.9)) == []
    assert worse(check(samples=2000), check(samples=2000, argmax_agreement=0.96)) == ["argmax_agreement"]


def test_a_figure_that_is_no_longer_measured_has_vanished() -> None:
    now = check(argmax_agreement=None)
    (change,) = drift_of(check(), now).worse
    assert change.why == "argmax_agreement was judged before and is not now"
    assert not drift_of(now, check()).worse


@pytest.mark.parametrize("now", ["fail", "inconclusive"])
def test_a_hard_case_that_passed_has_to_pass(now: str) -> None:
    (change,) = drift_of(check(stress=(case(),)), check(stress=(case(now),))).worse
    assert change.where == "stress masked, image"
    assert now in change.why
    assert not drift_of(check(stress=(case("fail"),)), check(stress=(case("fail"),))).worse


def test_a_hard_case_may_be_worse_by_less_than_3_db() -> None:
    before = check(stress=(case(),))
    assert worse(before, check(stress=(case(sqnr_db=27.5),))) == []
    assert worse(before, check(stress=(case(sqnr_db=26.5),))) == ["sqnr_db"]
    assert worse(before, check(stress=(case(non_finite=1),))) == ["non_finite"]


def test_a_hard_case_that_is_not_run_any_more_has_vanished() -> None:
    before = check(stress=(case(),))
    for now in (check(), check(stress=(replace(case(), verdict="not run", outputs={}, note="saved"),))):
        (change,) = drift_of(before, now).worse
        assert "is not now" in change.why
    # What was not judged before owes nothing.
    assert not drift_of(check(stress=(replace(case(), verdict="reference refuses"),)), check()).worse


@given(
    sqnr_db=st.floats(0, 140),
    cosine=st.floats(0, 1),
    max_abs=st.floats(0, 1e6),
    agreement=st.floats(0, 1),
    samples=st.integers(1, 10_000),
)
def test_nothing_drifts_from_itself(
    sqnr_db: float, cosine: float, max_abs: float, agreement: float, samples: int
) -> None:
    same = check(sqnr_db=sqnr_db, cosine=cosine, max_abs=max_abs, argmax_agreement=agreement, samples=samples)
    found = drift_of(same, same)
    assert (found.worse, found.better) == ((), ())


@given(before=st.floats(0, 140), now=st.floats(0, 140))
def test_what_is_worse_one_way_is_better_the_other_way(before: float, now: float) -> None:
    there = drift_of(check(sqnr_db=before), check(sqnr_db=now))
    back = drift_of(check(sqnr_db=now), check(sqnr_db=before))
    assert [c.metric for c in there.worse] == [c.metric for c in back.better]
    assert not (there.worse and there.better)


def test_the_json_has_no_infinity() -> None:
    found = drift_of(check(sqnr_db=None, max_abs=0.0, rel_l2=0.0), check()).to_json("before.json")
    assert found["verdict"] == "fail"
    values = [row[key] for row in found["worse"] for key in ("before", "now", "bound")]
    assert all(value is None or math.isfinite(value) for value in values)
