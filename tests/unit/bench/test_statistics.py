"""What is said of many times, held to what is known of the distributions that they were drawn from."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtrt.bench import statistics
from mmtrt.bench.statistics import (
    block_length,
    early_stopping,
    mean_interval,
    mean_ratio_interval,
    percentile,
    percentile_interval,
    ratio_interval,
    spread,
)

TIMES = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=60)


@given(TIMES, st.integers(1, 100))
def test_a_percentile_is_the_nearest_rank(times: list[float], percent: int) -> None:
    value = percentile(times, percent)
    assert value in times
    assert sum(t <= value for t in times) * 100 >= percent * len(times), "so many are not above it"
    assert sum(t < value for t in times) * 100 < percent * len(times), "and of no smaller one can that be said"


@pytest.mark.parametrize(("percent", "wanted"), [(0, 1), (1, 1), (50, 50), (90, 90), (99, 99), (100, 100)])
def test_of_a_hundred_the_percentile_is_its_number(percent: int, wanted: int) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == wanted


@given(TIMES)
def test_a_spread_is_in_order_and_knows_no_units(times: list[float]) -> None:
    found = spread(times)
    assert found.min <= found.p50 <= found.p90 <= found.p95 <= found.p99 <= found.max
    assert found.min <= found.mean * (1 + 1e-9)
    assert found.mean <= found.max * (1 + 1e-9)
    longer = spread([8 * time for time in times])
    assert longer.p99 == 8 * found.p99
    assert longer.cv == pytest.approx(found.cv, abs=1e-9)
    assert longer.drift == pytest.approx(found.drift, abs=1e-9)
    assert longer.drifted == found.drifted


@pytest.mark.parametrize("times", [[], [1.0, math.nan], [math.inf]])
def test_what_is_no_time_is_refused(times: list[float]) -> None:
    with pytest.raises(ValueError, match="times"):
        spread(times)


def test_drift_is_told_where_chance_does_not_explain_it() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(10, 0.1, 400)
    assert not spread(noise).drifted
    climbing = spread(noise + np.linspace(0, 1, 400))
    assert climbing.drifted
    assert climbing.drift == pytest.approx(0.05, abs=0.02)
    assert spread(noise - np.linspace(0, 1, 400)).drift < 0
    assert not spread([1, 1, 1, 9, 9, 9]).drifted, "six times prove nothing"


# -------------------------------------------------------------------------------------------------- intervals


def autoregressive(rng: np.random.Generator, count: int, rho: float) -> np.ndarray:
    """Standard normal values of which each remembers the one before by `rho`."""
    steps = rng.normal(size=count)
    values = np.empty(count)
    values[0] = steps[0]
    for index in range(1, count):
        values[index] = rho * values[index - 1] + math.sqrt(1 - rho**2) * steps[index]
    return values


def drawn(rng: np.random.Generator, rounds: int, shared: float, own: float) -> tuple[np.ndarray, np.ndarray]:
    """Two contenders' times in turn, the second 0.9 of the first, on a machine whose moods both meet."""
    mood = np.exp(0.2 * autoregressive(rng, rounds, shared))
    first, second = (np.exp(0.05 * autoregressive(rng, rounds, own)) for _ in range(2))
    return 10 * mood * first, 9 * mood * second


@pytest.mark.parametrize(
    ("rounds", "shared", "own"), [(30, 0.0, 0.0), (100, 0.8, 0.0), (200, 0.0, 0.6), (300, 0.9, 0.6)]
)
def test_the_ratio_s_interval_holds_the_truth_as_often_as_it_says(
    monkeypatch: pytest.MonkeyPatch, rounds: int, shared: float, own: float
) -> None:
    monkeypatch.setattr(statistics, "_MOST", 200)
    rng = np.random.default_rng(rounds)
    repetitions = 200
    inside = 0
    for _ in range(repetitions):
        first, second = drawn(rng, rounds, shared, own)
        low, high = ratio_interval(second, first)
        inside += low <= 0.9 <= high
    # Of 95 in 100, chance leaves 200 repetitions no fewer than 178 in 999 of 1000 cases; resampling costs some more.
    assert inside >= 0.88 * repetitions


def test_an_interval_that_takes_rounds_for_independent_would_be_too_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_MOST", 100)
    rng = np.random.default_rng(7)
    pairs = [drawn(rng, 1000, 0.0, 0.9) for _ in range(60)]

    def covered() -> int:
        return sum(low <= 0.9 <= high for low, high in (ratio_interval(second, first) for first, second in pairs))

    in_blocks = covered()
    monkeypatch.setattr(statistics, "block_length", lambda _: 1)
    assert in_blocks > covered() + 10


def test_moods_that_both_meet_cost_the_ratio_nothing() -> None:
    rng = np.random.default_rng(1)
    mood = np.exp(autoregressive(rng, 400, 0.5))
    assert ratio_interval(2 * mood, mood) == (2, 2)


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=40), st.floats(0.1, 10))
@settings(max_examples=8, deadline=None)
def test_an_interval_holds_its_median_repeats_and_scales(times: list[float], factor: float) -> None:
    low, high = percentile_interval(times)
    assert min(times) <= low <= percentile(times, 50) <= high <= max(times)
    assert percentile_interval(times) == (low, high)
    scaled = percentile_interval([factor * time for time in times])
    assert scaled == pytest.approx((factor * low, factor * high))


def test_a_very_long_run_is_told_by_a_part_of_it() -> None:
    rng = np.random.default_rng(6)
    times = rng.exponential(size=1_500_000)
    low, high = percentile_interval(times, 90)
    assert low < -math.log(0.1) < high
    assert high - low < 0.1


def test_percentiles_have_intervals_too() -> None:
    rng = np.random.default_rng(3)
    times = rng.exponential(size=2000)
    for percent in (50, 90, 99):
        low, high = percentile_interval(times, percent)
        assert low < -math.log(1 - percent / 100) < high


@pytest.mark.parametrize(
    ("make", "least", "most"),
    [
        (lambda rng: rng.normal(size=(1, 1000)), 1, 3),
        (lambda rng: autoregressive(rng, 1000, 0.9)[None], 8, 95),
        (lambda _: np.ones((2, 1000)), 1, 1),
        (lambda rng: rng.normal(size=(1, 5)), 1, 1),
        (lambda rng: np.repeat(rng.normal(size=100), 10)[None], 5, 95),
    ],
)
def test_blocks_are_as_long_as_rounds_remember(
    make: Callable[[np.random.Generator], np.ndarray], least: int, most: int
) -> None:
    assert least <= block_length(make(np.random.default_rng(5))) <= most


@pytest.mark.parametrize("length", [1, 3, 7, 25])
def test_blocks_draw_each_round_alike(length: int) -> None:
    rng = np.random.default_rng(0)
    rounds, blocks = 25, 40
    total = sum(statistics._drawn(rng, rounds, length, blocks) for _ in range(300))
    assert total.sum() == 300 * blocks * length
    assert total.min() > 0.7 * total.mean()
    once = statistics._drawn(np.random.default_rng(1), rounds, length, 1)
    assert sorted(set(once)) in ([0, 1], [1])
    assert once.sum() == length


def test_the_mean_of_a_few_has_student_s_interval() -> None:
    rng = np.random.default_rng(2)
    inside = paired = 0
    for _ in range(400):
        mood = rng.uniform(1, 2, 10)
        first, second = mood * rng.normal(1, 0.05, 10), 3 * mood * rng.normal(1, 0.05, 10)
        low, high = mean_interval(first) or (0, 0)
        inside += low <= 1.5 <= high
        low, high = mean_ratio_interval(second, first) or (0, 0)
        assert low < second.mean() / first.mean() < high < low * 1.5, "the mood costs nothing"
        paired += low <= 3 <= high
    assert 0.92 <= inside / 400 <= 0.98
    assert 0.92 <= paired / 400 <= 0.98
    assert mean_interval([3.0]) is None
    assert mean_ratio_interval([3.0], [1.0]) is None


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=20))
def test_a_mean_s_interval_holds_it_and_stays_above_0(values: list[float]) -> None:
    low, high = mean_interval(values) or (0, 0)
    assert 0 < low <= np.mean(values) * (1 + 1e-12)
    assert high >= np.mean(values) * (1 - 1e-12)


# ------------------------------------------------------------------------------------------- MLPerf's early stopping


@pytest.mark.parametrize(("percent", "least"), [(90, 64), (99, 662)])
def test_early_stopping_asks_for_as_many_queries_as_mlperf(percent: int, least: int) -> None:
    times = np.arange(least, dtype=float)
    assert early_stopping(times[:-1], percent) is None
    assert early_stopping(times, percent) == least - 1, "of the fewest it is the largest"
    assert early_stopping([], percent) is None


def test_early_stopping_is_no_less_than_the_percentile_and_comes_close() -> None:
    times = np.arange(100_000, dtype=float)
    found = early_stopping(times, 90)
    assert found is not None
    assert 90_000 <= found <= 90_400


def test_the_percentile_is_below_the_estimate_99_times_in_a_hundred() -> None:
    rng = np.random.default_rng(4)
    below = sum((early_stopping(rng.uniform(size=300), 90) or 0) >= 0.9 for _ in range(1000))
    assert below >= 980
