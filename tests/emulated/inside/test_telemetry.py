"""NVIDIA's own `nvidia-ml-py` over an NVML in software that says what a script tells it to."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mmtrt.bench.telemetry import Sampler, Telemetry

pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")

Watched = Callable[..., tuple[Telemetry | None, str]]


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Watched:
    """Sample for a moment while NVML says these lines."""

    def run(*lines: str, seconds: float = 0.5) -> tuple[Telemetry | None, str]:
        script = tmp_path / "nvml.txt"
        script.write_text("\n".join(lines) + "\n")
        monkeypatch.setenv("EMULATED_NVML_SCRIPT", str(script))
        with Sampler() as sampler:
            time.sleep(seconds)
        return sampler.telemetry, sampler.why

    return run


def test_units_are_those_of_the_names(watched: Watched) -> None:
    found, why = watched("power 45000", "temperature 61", "clock_sm 1755", "clock_mem 2619", f"memory_used {3 << 30}")
    assert found is not None, why
    shown = {
        name: getattr(found, name).mean
        for name in ("power_w", "temperature_c", "sm_clock_mhz", "memory_clock_mhz", "memory_used_mib")
    }
    expected = (45, 61, 1755, 2619, 3072)
    assert tuple(shown.values()) == expected
    assert found.source == "nvml"
    assert found.clocks_locked is False


def test_the_counter_of_energy_is_taken_where_there_is_one(watched: Watched) -> None:
    # This counter goes up by 30 J a second, whatever the power is told to be.
    found, why = watched("power 99000")
    assert found is not None, why
    assert found.energy_from == "counter"
    assert found.energy_j == pytest.approx(30 * found.duration_s, rel=0.1)


def test_without_the_counter_power_is_summed_over_time(watched: Watched) -> None:
    found, why = watched("power 20000", "energy !999")
    assert found is not None, why
    assert found.energy_from == "power"
    assert found.energy_j == pytest.approx(20 * found.duration_s)
    assert any("energy_j" in note for note in found.notes)


def test_what_holds_the_clocks_back_is_named(watched: Watched) -> None:
    found, why = watched("throttle 0 0 4 96 2")
    assert found is not None, why
    assert set(found.throttle) <= {"power cap (software)", "thermal (software)", "thermal (hardware)"}
    assert "thermal (hardware)" in found.throttle
    assert found.clocks_locked is True


def test_a_value_that_fails_midway_is_told(watched: Watched) -> None:
    found, why = watched("temperature 40 41 42 43 !15")
    assert found is not None, why
    assert found.temperature_c is not None
    assert "not always told: temperature_c" in found.notes


def test_nvml_that_does_not_start_is_told(watched: Watched) -> None:
    found, why = watched("init 9")
    assert found is None
    assert why.startswith("NVML does not start")
