# ruff: noqa: N802, ARG002 - the fake has NVML's names and arguments
from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from mmtrt.bench import nvml
from mmtrt.bench.nvml import NvmlSensor, open_nvml
from mmtrt.bench.sensors import SensorError


class NVMLError(Exception):
    pass


class FakeNvml:
    """The little of `pynvml` that is called, of a GPU that has everything; `lacks` names what fails."""

    def __init__(self, *lacks: str, reasons: int = 0) -> None:
        self.lacks = set(lacks)
        self.reasons = reasons
        self.open = 0
        self.energy_mj = 5_000_000
        self.handles = {"00000000:01:00.0": "the first", "00000000:02:00.0": "the second"}

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml") and name in super().__getattribute__("lacks"):
            raise NVMLError("Function Not Found")
        return super().__getattribute__(name)

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetHandleByPciBusId(self, bus: str) -> str:
        if bus not in self.handles:
            raise NVMLError("Not Found")
        return self.handles[bus]

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return list(self.handles.values())[index]

    def nvmlDeviceGetName(self, handle: str) -> bytes:
        return f"NVIDIA Fake, {handle}".encode()

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:
        return {1: 1755, 2: 2619}[kind]

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:
        return 61

    def nvmlDeviceGetTemperatureV(self, handle: str, sensor: int) -> int:
        return 62

    def nvmlDeviceGetFieldValues(self, handle: str, fields: list[int]) -> list[Any]:
        return [SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(uiVal=412_500)) for _ in fields]

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return 400_000

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        self.energy_mj += 1000
        return self.energy_mj

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:
        return SimpleNamespace(used=3 << 30)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:
        return self.reasons

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:
        return self.reasons

    def nvmlDeviceGetPersistenceMode(self, handle: str) -> int:
        return 1

    def nvmlDeviceGetMigMode(self, handle: str) -> list[int]:
        return [0, 0]


def test_everything_is_read_in_the_units_of_its_name() -> None:
    reading = NvmlSensor(FakeNvml()).read()
    assert (reading.sm_clock_mhz, reading.memory_clock_mhz, reading.temperature_c) == (1755, 2619, 62)
    assert (reading.power_w, reading.memory_used_mib) == (412.5, 3072)
    assert reading.energy_j is not None
    assert reading.energy_j > 5000
    assert reading.failed == ()


def test_the_gpu_is_the_one_that_cuda_takes() -> None:
    assert NvmlSensor(FakeNvml(), bus_id="00000000:02:00.0").device == "NVIDIA Fake, the second"
    assert NvmlSensor(FakeNvml(), bus_id="elsewhere").device == "NVIDIA Fake, the first"


def test_an_older_driver_is_asked_by_its_own_calls() -> None:
    old = FakeNvml(
        "nvmlDeviceGetTemperatureV", "nvmlDeviceGetFieldValues", "nvmlDeviceGetCurrentClocksEventReasons", reasons=0x4
    )
    sensor = NvmlSensor(old)
    reading = sensor.read()
    assert (reading.temperature_c, reading.power_w) == (61, 400.0)
    assert reading.throttle == {"power cap (software)"}
    assert "averaged" in sensor.power_of


def test_what_the_gpu_lacks_is_named_once_and_not_asked_again() -> None:
    sensor = NvmlSensor(FakeNvml("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetClockInfo"))
    reading = sensor.read()
    assert (reading.energy_j, reading.sm_clock_mhz, reading.failed) == (None, None, ())
    assert sensor.notes == ("the driver does not tell sm_clock_mhz, memory_clock_mhz, energy_j",)


def test_what_fails_later_is_told_with_the_reading() -> None:
    api = FakeNvml()
    sensor = NvmlSensor(api)
    api.lacks.add("nvmlDeviceGetMemoryInfo")
    assert sensor.read().failed == ("memory_used_mib",)


def test_a_gpu_that_is_lost_ends_the_readings() -> None:
    api = FakeNvml()
    sensor = NvmlSensor(api)
    api.lacks |= {name for name in dir(type(api)) if name.startswith("nvmlDevice")}
    with pytest.raises(SensorError, match="no more"):
        sensor.read()


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (0x1, set()),
        (0x2, set()),
        (0x40 | 0x80, {"thermal (hardware)", "power brake (hardware)"}),
        (0x4 | 0x20, {"power cap (software)", "thermal (software)"}),
    ],
)
def test_idle_and_set_clocks_are_no_throttling(bits: int, names: set[str]) -> None:
    assert NvmlSensor(FakeNvml(reasons=bits)).read().throttle == names


def test_locked_clocks_are_known_by_what_limits_them() -> None:
    held = NvmlSensor(FakeNvml(reasons=0x2)).clocks()
    assert held.locked is True
    assert held.note == "held by a setting of the clocks; persistence mode on"
    assert NvmlSensor(FakeNvml(reasons=0x0)).clocks().locked is False
    silent = FakeNvml("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
    assert NvmlSensor(silent).clocks().locked is None


def test_a_driver_that_does_not_start_is_told_with_its_words() -> None:
    with pytest.raises(SensorError, match="does not start: Function Not Found"):
        NvmlSensor(FakeNvml("nvmlInit"))


def test_nvml_is_given_back_when_there_is_no_gpu() -> None:
    api = FakeNvml("nvmlDeviceGetHandleByIndex")
    with pytest.raises(SensorError, match="does not know the GPU"):
        NvmlSensor(api)
    assert api.open == 0


def test_opened_by_the_module_and_closed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    api = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", api)
    monkeypatch.setattr(nvml, "cuda_bus_id", lambda: "00000000:02:00.0")
    sensor = open_nvml()
    assert sensor.device.endswith("the second")
    sensor.close()
    assert api.open == 0


def test_without_the_package_the_fix_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(SensorError, match=r"mmtrt\[cuda\]"):
        open_nvml()
