"""MLPerf's scenarios: which times count, and what the result is."""

from __future__ import annotations

import pytest
from timed_fakes import FEEDS, Clock, Device

from mmtrt.bench.contenders import Contender
from mmtrt.bench.measure import BURSTS, Settings, sweep
from mmtrt.bench.queries import Shape
from mmtrt.bench.scenarios import SCENARIOS


def test_single_stream_takes_the_caller_s_time_and_p90(clock: Clock) -> None:
    settings = Settings(duration_s=0.3, scenario=SCENARIOS["single-stream"])
    device = Device(clock, *range(1, 11))
    (row,) = sweep([Contender(file="a", runner=device)], [Shape(feeds=FEEDS)], settings).results
    assert (row.scenario, row.figure, row.clock) == ("single-stream", "p90_ms", "host")
    assert row.p90_ms in {9.02, 10.02}
    assert device.bursts == [], "the next query waits for the one before"
    assert row.queries_per_s == pytest.approx(1e3 / row.mean_ms)
    assert row.early_stopping_ms is None or row.early_stopping_ms >= row.p90_ms
    assert any("600 s" in told for told in row.warnings)


def test_a_query_of_eight_may_take_several_runs(clock: Clock) -> None:
    settings = Settings(duration_s=0.1, scenario=SCENARIOS["multi-stream"])
    device = Device(clock, 1)
    shape = Shape(feeds=FEEDS, samples=2, runs=4)
    (row,) = sweep([Contender(file="a", runner=device)], [shape], settings).results
    assert set(device.bursts) == {4}
    assert (row.p99_ms, row.samples, row.clock) == (4, 8, "host")
    assert row.samples_per_s == pytest.approx(2000)


def test_offline_is_about_samples_a_second(clock: Clock) -> None:
    settings = Settings(duration_s=0.3, scenario=SCENARIOS["offline"])
    device = Device(clock, 1)
    (row,) = sweep([Contender(file="a", runner=device)], [Shape(feeds=FEEDS, samples=16)], settings).results
    assert (row.figure, row.samples_per_s) == ("samples_per_s", pytest.approx(16_000))
    assert row.figure_ci95 == row.throughput_ci95
    assert device.bursts == [29] * BURSTS, "all of the time, by what the caller sees of one"
    assert any("24576 samples" in told for told in row.warnings)
