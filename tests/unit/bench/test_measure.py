from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from timed_fakes import FEEDS, Clock, Device, DeviceRun, Fake

from mmtrt.bench.contenders import Contender
from mmtrt.bench.measure import BURSTS, LEAST, Settings, measure, sweep
from mmtrt.bench.queries import Shape
from mmtrt.errors import MachineError, MeasurementError
from mmtrt.runtimes.timing import Timing
from mmtrt.tensors import Array, Feeds

if TYPE_CHECKING:
    from typing_extensions import Self

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


def test_the_next_one_waits_until_the_threads_of_the_one_before_rest(clock: Clock) -> None:
    def sleeps(spins: int) -> int:
        clock.sleeps, clock.spins = 0, spins
        two = [Contender(file=name, runner=Fake(clock, 1)) for name in "ab"]
        measure(two, FEEDS, duration_s=0.02)
        return clock.sleeps

    assert sleeps(spins=101) > sleeps(spins=0) + 40


def test_the_first_runs_are_not_counted(clock: Clock) -> None:
    runner = Fake(clock, *([500.0] + [1.0] * 999))
    (row,) = measure([Contender(file="a", runner=runner)], FEEDS, duration_s=0.01).results
    assert row.mean_ms == 1
    assert runner.calls > row.n


def test_a_device_s_events_are_its_clock(clock: Clock) -> None:
    device = Device(clock, 1)
    (row,) = measure([Contender(file="a.engine", runner=device, precision="int8")], FEEDS, duration_s=0.3).results
    assert (row.clock, row.p50_ms, row.precision, row.runs) == ("cuda_event", 1, "int8", device.runs)
    assert (row.cuda_graph, row.transfers) == (True, True)
    parts = (row.h2d_p50_ms, row.compute_p50_ms, row.d2h_p50_ms, row.enqueue_p50_ms, row.host_p50_ms)
    assert parts == pytest.approx((0.1, 0.8, 0.1, 0.01, 1.02))
    assert row.overhead_p50_ms == pytest.approx(0.02)
    assert device.bursts == [10] * BURSTS, "a third of the time"
    assert row.queries_per_s == pytest.approx(1000), "queries one ahead hide what the host adds"
    assert row.device_mib == 3
    assert row.notes == ("it is a fake",)
    assert (device.timing, device.open) == (0, False)
    assert set(row.times) == {"latency_ms", "host_ms", "enqueue_ms", "h2d_ms", "compute_ms", "d2h_ms"}
    assert {len(series) for series in row.times.values()} == {row.n}


def test_graphs_and_copies_are_asked_for_and_told(clock: Clock) -> None:
    def flags(device: Device, **asked: bool) -> tuple[bool, bool]:
        settings = Settings(duration_s=0.01, **asked)
        (row,) = sweep([Contender(file="a", runner=device)], [Shape(feeds=FEEDS)], settings).results
        assert (row.h2d_p50_ms is not None) == row.transfers
        return row.cuda_graph, row.transfers

    assert flags(Device(clock, 1), cuda_graph=False) == (False, True)
    assert flags(Device(clock, 1), transfers=False) == (True, False)
    assert flags(Device(clock, 1, graphs=False)) == (False, True), "what it has, not what was asked for"
    settings = Settings(duration_s=0.01, transfers=False)
    (row,) = sweep([Contender(file="a", runner=Fake(clock, 1))], [Shape(feeds=FEEDS)], settings).results
    assert (row.cuda_graph, row.transfers) == (False, True), "a host's runner can't leave its copies out"


def test_two_clocks_are_no_comparison_but_the_caller_s_time_is(clock: Clock) -> None:
    contenders = [Contender(file="a.onnx", runner=Fake(clock, 4)), Contender(file="a.engine", runner=Device(clock, 1))]
    with pytest.raises(MachineError) as caught:
        sweep(contenders, [Shape(feeds=FEEDS)], Settings(duration_s=0.01))
    assert "--clock host" in (caught.value.fix or "")
    assert not any(contender.runner.open for contender in contenders)  # type: ignore[attr-defined]
    result = sweep(contenders, [Shape(feeds=FEEDS)], Settings(duration_s=0.01, host_clock=True))
    assert [row.clock for row in result.results] == ["host", "host"]
    assert [row.p50_ms for row in result.results] == pytest.approx([4, 1.02])
    assert result.ratio is not None
    assert result.ratio["a.engine"]["p50"] == pytest.approx(1.02 / 4)
    assert result.settings["clock"] == "host"


def test_each_shape_of_a_sweep_has_its_rows_and_its_ratio(clock: Clock) -> None:
    log: list[Fake] = []
    first, second = Device(clock, 2, log=log), Device(clock, 1, log=log)
    shapes = [Shape(feeds={"x": np.zeros((n, 3))}, sizes={"batch": n}, samples=n) for n in (1, 4)]
    told: list[Shape] = []
    contenders = [Contender(file="a", runner=first), Contender(file="b", runner=second)]
    result = sweep(contenders, shapes, Settings(duration_s=0.05), begun=told.append)
    assert told == shapes
    assert [(row.file, dict(row.sizes), row.samples) for row in result.results] == [
        ("a", {"batch": 1}, 1),
        ("b", {"batch": 1}, 1),
        ("a", {"batch": 4}, 4),
        ("b", {"batch": 4}, 4),
    ]
    assert [row.shapes["x"] for row in result.results] == [(1, 3), (1, 3), (4, 3), (4, 3)]
    assert [row.samples_per_s for row in result.results] == pytest.approx([500, 1000, 2000, 4000])
    assert result.ratio is None, "there is one per shape"
    assert [row.ratio["p50"] if row.ratio else None for row in result.results] == [None, 0.5, None, 0.5]
    assert result.results[3].ratio["throughput"] == pytest.approx(2)  # type: ignore[index]


def test_throughput_has_an_interval_in_samples(clock: Clock) -> None:
    shape = Shape(feeds=FEEDS, samples=4)
    (row,) = sweep([Contender(file="a", runner=Device(clock, 1, 3))], [shape], Settings(duration_s=0.3)).results
    assert row.throughput_ci95 is not None
    assert row.samples_per_s is not None
    low, high = row.throughput_ci95
    assert low <= row.samples_per_s * 1.000001
    assert row.samples_per_s <= high * 1.000001
    assert row.samples_per_s == 4 * row.queries_per_s  # type: ignore[operator]


# ------------------------------------------------------------------------------------------- sensors and memory


class Sensors:
    why = ""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.entered = 0

    def between(self, start_s: float, stop_s: float) -> Sensors | None:
        self.watts = 100 * (stop_s - start_s)
        return self

    def energy_mj_per_inference(self, inferences: int) -> float | None:
        return 1e3 * self.watts / inferences

    def to_json(self) -> dict[str, Any]:
        return {"energy_j": self.watts}

    def __enter__(self) -> Self:
        self.entered += 1
        return self

    def __exit__(self, *exc: object) -> None:
        self.entered -= 1


def test_sensors_are_read_once_and_told_by_row(clock: Clock) -> None:
    sensors = Sensors(clock)
    shapes = [Shape(feeds=FEEDS, sizes={"batch": n}) for n in (1, 2)]
    contender = Contender(file="a", runner=Device(clock, 1))
    result = sweep([contender], shapes, Settings(duration_s=0.3), watch=sensors)
    assert sensors.entered == 0
    assert result.telemetry is not None
    for row in result.results:
        assert row.telemetry is not None
        # 100 W, and a millisecond a query but for what the host adds.
        assert row.telemetry["energy_mj_per_query"] == pytest.approx(100, rel=0.03)


def test_what_two_take_together_is_told_of_neither(clock: Clock) -> None:
    contenders = [Contender(file=name, runner=Device(clock, 1)) for name in "ab"]
    shapes = [Shape(feeds=FEEDS)]
    result = sweep(contenders, shapes, Settings(duration_s=0.05), watch=Sensors(clock))
    assert [row.telemetry for row in result.results] == [None, None]
    assert result.telemetry is not None


def test_memory_is_told(clock: Clock) -> None:
    (row,) = measure([Contender(file="a", runner=Fake(clock, 1))], FEEDS, duration_s=0.01).results
    assert row.device_mib is None
    assert row.peak_rss_mib is not None
    assert row.host_mib is not None
    assert 0 <= row.host_mib <= row.peak_rss_mib


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 0.0])
def test_a_time_that_is_none_is_refused(clock: Clock, wrong: float) -> None:
    class Wrong(Device):
        def next_ms(self) -> float:
            return 1.0

        @contextmanager
        def timed(self, feeds: Feeds, *, cuda_graph: bool, transfers: bool) -> Iterator[DeviceRun]:
            assert feeds is FEEDS

            class Run(DeviceRun):
                def once(self) -> Timing:
                    super().once()
                    return Timing(latency_ms=wrong, host_ms=1.0)

            yield Run(self, cuda_graph=cuda_graph, transfers=transfers)

    with pytest.raises(MeasurementError, match="engine"):
        measure([Contender(file="a.engine", runner=Wrong(clock, 1))], FEEDS, duration_s=0.01)


def test_the_ratio_is_against_the_first_with_its_interval(clock: Clock) -> None:
    first, same = Fake(clock, 4, 5, 6), Fake(clock, 4, 5, 6)
    half = Fake(clock, 2, 2.5, 3)
    contenders = [Contender(file=name, runner=r) for name, r in (("a", first), ("b", same), ("c", half))]
    result = measure(contenders, FEEDS, duration_s=0.3)
    assert result.ratio is not None
    assert result.ratio.keys() == {"b", "c"}
    assert (result.ratio["b"]["against"], result.ratio["b"]["p50"], result.ratio["b"]["ci95"]) == ("a", 1, [1, 1])
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
