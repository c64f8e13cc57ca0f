"""Budgets of hard cases: their keys, their defaults, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmtrt.errors import UsageError
from mmtrt.parity.budget import DEFAULTS
from mmtrt.parity.stress import KINDS, SATURATED, Named
from mmtrt.parity.stress_budget import chosen_kinds, split_budget, stress_bounds

PRECISIONS = sorted(DEFAULTS)


def test_what_is_for_a_kind_is_taken_apart() -> None:
    budget = {"sqnr_db": 20.0, "y:cosine": 0.9, "masked/sqnr_db": 5.0, "batch-invariance/y:max_abs": 0.1}
    samples, stress = split_budget(budget)
    assert samples == {"sqnr_db": 20.0, "y:cosine": 0.9}
    assert stress == {"masked/sqnr_db": 5.0, "batch-invariance/y:max_abs": 0.1}


def test_an_outputs_name_may_hold_a_slash() -> None:
    budget = {"/head/Gemm:sqnr_db": 20.0, "head/y:cosine": 0.9, "masked//head/Gemm:max_abs": 0.5}
    samples, stress = split_budget(budget)
    assert set(samples) == {"/head/Gemm:sqnr_db", "head/y:cosine"}
    assert stress_bounds(Named("masked", ""), "/head/Gemm", "fp16", samples, stress) == {
        "non_finite": 0,
        "max_abs": 0.5,
    }


@pytest.mark.parametrize("key", ["maskd/sqnr_db", "maskd/y:sqnr_db", "head/sqnr_db", "/sqnr_db"])
def test_an_unknown_kind_is_refused(key: str) -> None:
    with pytest.raises(UsageError, match="no known kind") as refused:
        split_budget({key: 1.0})
    assert "masked" in str(refused.value.fix)


@given(kind=st.sampled_from(KINDS), precision=st.sampled_from(PRECISIONS), own=st.floats(0, 90))
def test_a_default_follows_the_samples_bound_down_and_never_up(kind: str, precision: str, own: float) -> None:
    usual = stress_bounds(Named(kind, ""), "y", precision, {}, {})
    held = stress_bounds(Named(kind, ""), "y", precision, {"y:sqnr_db": own, "z:sqnr_db": 0.0}, {})
    assert held.keys() == usual.keys()
    assert held["non_finite"] == 0
    if kind in {"determinism", "batch-invariance"}:
        assert held == usual
    else:
        assert held["sqnr_db"] <= max(own, 0)
        assert held["sqnr_db"] <= usual["sqnr_db"]
        assert held["sqnr_db"] >= -3
        if own >= DEFAULTS[precision]["sqnr_db"]:
            assert held == usual


def test_what_a_budget_says_of_a_kind_takes_the_place_of_its_default() -> None:
    stress = {"masked/cosine": 0.5, "masked/y:sqnr_db": 3.0}
    named = Named("masked", "text")
    assert stress_bounds(named, "y", "int8", {}, stress) == {"non_finite": 0, "cosine": 0.5, "sqnr_db": 3}
    # Any scale has the cosine that is asked for.
    alone = stress_bounds(named, "z", "int8", {}, stress)
    assert alone == {"non_finite": 0, "cosine": 0.5, "sqnr_db": pytest.approx(-7.77, abs=0.01)}
    assert stress_bounds(Named("zeroed", "text"), "y", "int8", {}, stress) == {"non_finite": 0, "sqnr_db": 5}


@pytest.mark.parametrize("metric", ["non_finite", "argmax_agreement", "error_p50"])
def test_what_says_nothing_of_the_error_s_size_stands_beside_the_default(metric: str) -> None:
    for kind in KINDS:
        usual = stress_bounds(Named(kind, ""), "y", "int8", {}, {})
        assert stress_bounds(Named(kind, ""), "y", "int8", {}, {f"{kind}/{metric}": 0.5}) == {**usual, metric: 0.5}


def test_what_is_given_for_every_output_holds_for_those_of_its_kind() -> None:
    stress = {"corner/argmax_agreement": 0.9, "corner/value_agreement": 0.8}
    named = Named("corner", "")
    floats = {"non_finite": 0, "sqnr_db": 10, "argmax_agreement": 0.9}
    assert stress_bounds(named, "y", "int8", {}, stress) == floats
    integers = {"non_finite": 0, "value_agreement": 0.8}
    assert stress_bounds(named, "y", "int8", {}, stress, dtype="int64") == integers
    own = {"corner/y:argmax_agreement": 0.9}
    assert "argmax_agreement" in stress_bounds(named, "y", "int8", {}, own, dtype="int64")


def test_all_of_a_modality_at_an_end_is_allowed_more_in_int8() -> None:
    ends = [Named("extremes", ""), Named("extremes", "", "", SATURATED)]
    found = {p: [stress_bounds(one, "y", p, {}, {})["sqnr_db"] for one in ends] for p in PRECISIONS}
    assert found == {"fp16": [28, 28], "fp32": [70, 65], "int8": [5, -3]}


def test_kinds_are_chosen_and_left_out() -> None:
    assert chosen_kinds((), ()) == KINDS
    assert chosen_kinds(["masked", "corner"], ()) == ("corner", "masked")
    assert chosen_kinds((), ["masked"]) == tuple(kind for kind in KINDS if kind != "masked")
    assert chosen_kinds(["masked", "corner"], ["masked"]) == ("corner",)
    assert chosen_kinds(["none"], ()) == ()
    for only, skipped in ((["mask"], []), ([], ["mask"]), ([], ["none"]), (["none", "corner"], [])):
        with pytest.raises(UsageError):
            chosen_kinds(only, skipped)
