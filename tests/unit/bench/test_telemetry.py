from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from mmtrt.bench.sensors import Clocks, Reading, SensorError
from mmtrt.bench.telemetry import Sampler, Telemetry


@dataclass
class Scripted:
    """A sensor whose readings a test writes; `read` follows the clock unless `readings` are given."""

    reading: Callable[[float], Reading]
    pause_s: float = 0.005
    source: str = "nvml"
    device: str = "a GPU"
    power_of: str = "the board"
    notes: tuple[str, ...] = ()
    held: Clocks = field(default_factory=lambda: Clocks(locked=True, note="held"))
    closed: int = 0

    def read(self) -> Reading | None:
        return self.reading(time.perf_counter())

    def clocks(self) -> Clocks:
        return self.held

    def close(self) -> None:
        self.closed += 1


def sampled(sensor: Any, seconds: float = 0.08) -> Sampler:
    with Sampler(lambda: sensor) as sampler:
        time.sleep(seconds)
    return sampler


def told(sampler: Sampler) -> Telemetry:
    assert sampler.telemetry is not None, sampler.why
    return sampler.telemetry


def test_a_counter_gives_the_energy_of_exactly_the_time_between() -> None:
    # 50 W, by a counter that starts anywhere; power itself is told wrongly, so that it can't be what was used.
    found = told(sampled(Scripted(lambda now: Reading(at_s=now, energy_j=1e6 + 50 * now, power_w=1.0))))
    assert found.energy_from == "counter"
    assert found.energy_j == pytest.approx(50 * found.duration_s, rel=1e-4)
    assert found.energy_mj_per_inference(100) == pytest.approx(found.energy_j * 10)
    assert found.energy_mj_per_inference(0) is None


def test_without_a_counter_energy_is_power_over_time() -> None:
    found = told(sampled(Scripted(lambda now: Reading(at_s=now, power_w=20.0))))
    assert (found.energy_from, found.power_of) == ("power", "the board")
    assert found.energy_j == pytest.approx(20 * found.duration_s)


def test_a_counter_that_stands_still_is_not_taken_for_no_energy() -> None:
    found = told(sampled(Scripted(lambda now: Reading(at_s=now, power_w=20.0, energy_j=5.0))))
    assert found.energy_from == "power"


def test_least_mean_and_largest_are_those_of_the_readings() -> None:
    start = time.perf_counter()
    values = iter([1000.0, 1400.0, 1800.0])

    def reading(now: float) -> Reading:
        return Reading(at_s=now, sm_clock_mhz=next(values, 1400.0), temperature_c=now - start + 40)

    found = told(sampled(Scripted(reading)))
    # The first reading comes before the window opens: what was measured had not begun.
    assert found.sm_clock_mhz is not None
    assert (found.sm_clock_mhz.min, found.sm_clock_mhz.max) == (1400.0, 1800.0)
    assert found.temperature_c is not None
    assert found.temperature_c.min < found.temperature_c.mean < found.temperature_c.max
    assert found.memory_clock_mhz is None
    assert found.samples > 3


def test_each_reason_that_held_the_clocks_back_is_told_once() -> None:
    reasons = [frozenset({"thermal"}), frozenset({"power cap", "thermal"}), frozenset[str]()]
    turn = iter(range(10_000))
    found = told(sampled(Scripted(lambda now: Reading(at_s=now, throttle=reasons[next(turn) % 3]))))
    assert found.throttle == ("power cap", "thermal")


def test_a_stretch_of_the_whole_can_be_asked_for() -> None:
    start = time.perf_counter()
    # Ten readings of 10 W, ten of 20 W, 10 ms apart.
    counts = np.cumsum([0.0, *[0.1] * 10, *[0.2] * 10])
    script = iter([Reading(at_s=start + index / 100, energy_j=float(count)) for index, count in enumerate(counts)])
    with Sampler(lambda: Scripted(lambda _: next(script, None), pause_s=0)) as sampler:  # type: ignore[arg-type, return-value]
        time.sleep(0.01)
    late = sampler.between(start + 0.125, start + 0.185)
    early = sampler.between(start + 0.025, start + 0.085)
    assert late is not None
    assert early is not None
    assert (late.energy_j, late.samples) == (pytest.approx(20 * 0.06), 6)
    assert (early.energy_j, early.samples) == (pytest.approx(10 * 0.06), 6)
    assert sampler.between(start + 0.2, start + 0.2) is None


def test_where_there_are_no_sensors_the_reason_is_told() -> None:
    def none() -> Any:
        raise SensorError("no NVML here")

    with Sampler(none) as sampler:
        pass
    assert sampler.telemetry is None
    assert sampler.why == "no NVML here"


def test_sensors_that_crash_at_opening_do_not_stop_the_measurement() -> None:
    def broken() -> Any:
        raise ValueError("a bug")

    with Sampler(broken) as sampler:
        pass
    assert sampler.telemetry is None
    assert "ValueError: a bug" in sampler.why


@pytest.mark.parametrize("error", [SensorError("NVML answers no more"), RuntimeError("lost"), None])
def test_sensors_that_fail_midway_leave_what_was_read(error: Exception | None) -> None:
    left = iter(range(3))

    def reading(now: float) -> Any:
        if next(left, None) is None:
            if error is not None:
                raise error
            return None
        return Reading(at_s=now, power_w=10.0)

    sensor = Scripted(reading)
    sampler = sampled(sensor)
    found = told(sampler)
    assert len(sampler._readings) == 3
    assert sampler.why
    assert sampler.why in found.notes
    assert sensor.closed == 1


def test_a_measurement_that_fails_still_closes_the_sensors() -> None:
    sensor = Scripted(lambda now: Reading(at_s=now))

    def measured() -> None:
        with Sampler(lambda: sensor):
            raise KeyError("the model's own")

    with pytest.raises(KeyError):
        measured()
    assert sensor.closed == 1
    assert not [thread for thread in threading.enumerate() if thread.name == "telemetry"]


def test_what_failed_now_and_then_is_told() -> None:
    found = told(sampled(Scripted(lambda now: Reading(at_s=now, failed=("power_w",)))))
    assert found.notes == ("not always told: power_w",)


def test_it_goes_through_json_and_back() -> None:
    found = told(
        sampled(Scripted(lambda now: Reading(at_s=now, power_w=10.0, rails_w={"VIN": 10.0}, throttle=frozenset({"x"}))))
    )
    assert Telemetry.from_json(json.loads(json.dumps(found.to_json()))) == found
