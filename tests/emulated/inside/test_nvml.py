"""The software NVML says what its script says, value by value, and its errors."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest

NO_PERMISSION = 4


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ctypes.CDLL]:
    script = tmp_path / "script.txt"
    script.write_text("power 31000 !4 47000\ntemperature 41 42\nenergy 5 8\nutilisation_gpu 77\n", encoding="utf-8")
    monkeypatch.setenv("EMULATED_NVML_SCRIPT", str(script))
    library = ctypes.CDLL("libnvidia-ml.so.1")
    assert not library.nvmlInit_v2()
    yield library
    assert not library.nvmlShutdown()
    assert library.emulated_nvml_sessions() == 0


def handle(nvml: ctypes.CDLL) -> ctypes.c_void_p:
    found = ctypes.c_void_p()
    assert not nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(found))
    return found


def test_values_follow_one_another_and_the_last_stays(nvml: ctypes.CDLL) -> None:
    device, value = handle(nvml), ctypes.c_uint()
    told = []
    for _ in range(4):
        code = nvml.nvmlDeviceGetPowerUsage(device, ctypes.byref(value))
        told.append(-code or value.value)
    assert told == [31000, -NO_PERMISSION, 47000, 47000]
    for wanted in (41, 42, 42):
        assert not nvml.nvmlDeviceGetTemperature(device, 0, ctypes.byref(value))
        assert value.value == wanted
    energy = ctypes.c_ulonglong()
    assert not nvml.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(energy))
    assert energy.value == 5


def test_without_a_start_it_says_so_and_the_device_is_named(nvml: ctypes.CDLL) -> None:
    device, name = handle(nvml), ctypes.create_string_buffer(96)
    assert not nvml.nvmlDeviceGetName(device, name, 96)
    assert b"Emulated" in name.value
    nvml.nvmlShutdown()
    assert nvml.nvmlDeviceGetPowerUsage(device, ctypes.byref(ctypes.c_uint())) == 1
    assert not nvml.nvmlInit_v2()


def test_nvidias_own_package_takes_it(nvml: ctypes.CDLL) -> None:
    pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    pynvml.nvmlInit()
    device = pynvml.nvmlDeviceGetHandleByIndex(0)
    assert pynvml.nvmlDeviceGetUtilizationRates(device).gpu == 77
    assert pynvml.nvmlDeviceGetMemoryInfo(device).total == 1 << 30
    assert pynvml.nvmlDeviceGetClockInfo(device, pynvml.NVML_CLOCK_SM) > 0
    pynvml.nvmlShutdown()
