from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmtrt.bench import measure as bench
from mmtrt.bench.measure import LEAST, Contender, measure, percentile
from mmtrt.errors import MeasurementError
from mmtrt.tensors import Array, Feeds, TensorSpec

if TYPE_CHECKING:
    from typing_extensions import Self

FEEDS = {"x": np.zeros((1, 3), np.float32)}


class Clock:
    """Time that goes on only where a runner takes some."""

    def __init__(self) -> None:
        self.now_ns = 0

    def perf_counter_ns(self) -> int:
        return self.now_ns

    def perf_counter(self) -> float:
        return self.now_ns / 1e9

    def sleep(self, _: float) -> None:
        """Settling takes no time here."""


class Fake:
    """A runner that takes the times that it is told, over and over."""

    def __init__(self, clock: Clock, *times_ms: float, log: list[Fake] | None = None) -> None:
        self.clock = clock
        self.times_ms = times_ms
        self.log = log if log is not None else []
        self.runs = "fake 1.0 CPU"
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
        self.open = False
        self.calls = 0

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        assert self.open
        assert feeds is FEEDS
        self.clock.now_ns += round(self.next_ms() * 1e6)
        return {}

    def next_ms(self) -> float:
        self.log.append(self)
        self.calls += 1
        return self.times_ms[(self.calls - 1) % len(self.times_ms)]

    def __enter__(self) -> Self:
        self.open = True
        return self

    def __exit__(self, *exc: object) -> None:
        self.open = False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(bench, "time", made)
    return made


# ------------------------------------------------------------------------------------------------- percentiles


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=60), st.integers(1, 100))
def test_a_percentile_is_the_nearest_rank(times: list[float], percent: int) -> None:
    value = percentile(times, percent)
    assert value in times
    assert sum(t <= value for t in times) * 100 >= percent * len(times), "so many are not above it"
    assert sum(t < value for t in times) * 100 < percent * len(times), "and of no smaller one can that be said"


@pytest.mark.parametrize(("percent", "wanted"), [(0, 1), (1, 1), (50, 50), (90, 90), (99, 99), (100, 100)])
def test_of_a_hundred_the_percentile_is_its_number(percent: int, wanted: int) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == wanted


# ------------------------------------------------------------------------------------------------- measurements


def test_times_are_told_in_milliseconds(clock: Clock) -> None:
    runner = Fake(clock, 100, 200, 300, 400)
    result = measure([Contender(file="a.onnx", runner=runner)], FEEDS, duration_s=1)
    (row,) = result.results
    assert (row.file, row.runs, row.clock) == ("a.onnx", "fake 1.0 CPU", "host")
    assert row.n == LEAST, "at least ten, also where the time was up"
    assert (row.p50_ms, row.p90_ms, row.p99_ms) == (300, 400, 400), "the first two were to warm up"
    assert row.shapes == {"x": (1, 3)}
    assert result.ratio is None
    assert not runner.open


def test_each_is_measured_for_its_time(clock: Clock) -> None:
    slow, fast = Fake(clock, 5), Fake(clock, 2)
    result = measure([Contender(file="a", runner=slow), Contender(file="b", runner=fast)], FEEDS, duration_s=0.1)
    assert [row.n for row in result.results] == [29, 29], "200 ms for both, 7 ms a round"


def test_contenders_take_turns(clock: Clock) -> None:
    log: list[Fake] = []
    one, two = Fake(clock, 1, log=log), Fake(clock, 1, log=log)
    measure([Contender(file="a", runner=one), Contender(file="b", runner=two)], FEEDS, duration_s=0.02)
    assert log[-40:] == [one, two] * 20


def test_the_first_runs_are_not_counted(clock: Clock) -> None:
    runner = Fake(clock, *([500.0] + [1.0] * 999))
    (row,) = measure([Contender(file="a", runner=runner)], FEEDS, duration_s=0.01).results
    assert row.mean_ms == 1
    assert runner.calls > row.n


def test_the_gpu_s_events_are_its_clock(clock: Clock) -> None:
    events = Fake(clock, 7)

    def gpu_ms(feeds: Feeds) -> float:
        clock.now_ns += 20_000_000  # The host waits longer than the GPU works.
        return events.next_ms()

    contender = Contender(file="a.engine", runner=Fake(clock, 1), gpu_ms=gpu_ms)
    (row,) = measure([contender], FEEDS, duration_s=0.1).results
    assert (row.clock, row.p50_ms, row.n) == ("cuda_event", 7, 10)


def test_the_ratio_is_against_the_first_with_its_interval(clock: Clock) -> None:
    first, same = Fake(clock, 4, 5, 6), Fake(clock, 4, 5, 6)
    half = Fake(clock, 2, 2.5, 3)
    contenders = [Contender(file=name, runner=r) for name, r in (("a", first), ("b", same), ("c", half))]
    result = measure(contenders, FEEDS, duration_s=0.3)
    assert result.ratio is not None
    assert result.ratio.keys() == {"b", "c"}
    assert result.ratio["b"] == {"against": "a", "p50": 1, "ci95": [1, 1]}
    assert result.ratio["c"]["p50"] == 0.5
    low, high = result.ratio["c"]["ci95"]
    assert low <= 0.5 <= high


def test_noise_widens_the_interval_and_the_result_repeats(clock: Clock) -> None:
    rng = np.random.default_rng(0)

    def ratios() -> dict[str, Any]:
        noisy = [Fake(clock, *map(float, times)) for times in rng.uniform(1, 9, (2, 30))]
        result = measure([Contender(file=str(i), runner=r) for i, r in enumerate(noisy)], FEEDS, duration_s=0.2)
        assert result.ratio is not None
        return dict(result.ratio["1"])

    first = ratios()
    low, high = first["ci95"]
    assert low < first["p50"] < high
    assert high - low > 0.1
    rng = np.random.default_rng(0)
    assert ratios() == first


def test_a_long_measurement_stays_small_and_quick(clock: Clock) -> None:
    runners = [Fake(clock, 0.05), Fake(clock, 0.05)]
    start = time.process_time()
    result = measure([Contender(file=str(i), runner=r) for i, r in enumerate(runners)], FEEDS, duration_s=0.5)
    assert [row.n for row in result.results] == [10_000, 10_000]
    assert time.process_time() - start < 20


def test_a_runner_that_fails_leaves_all(clock: Clock) -> None:
    class Broken(Fake):
        def infer(self, feeds: Feeds) -> dict[str, Array]:  # noqa: ARG002
            raise MeasurementError("it crashed")

    runners = [Fake(clock, 1), Broken(clock, 1)]
    with pytest.raises(MeasurementError):
        measure([Contender(file="x", runner=r) for r in runners], FEEDS)
    assert not any(runner.open for runner in runners)
