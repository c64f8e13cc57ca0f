"""Clocks, temperature, power and energy of an NVIDIA GPU, by NVIDIA's own `nvidia-ml-py` (module `pynvml`).

Its calls go through ctypes, which lets go of the interpreter's lock: a thread that reads does not hold up the one that
measures. What a GPU or a driver does not have is left out once and for all when the sensors are opened.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmtrt.bench.sensors import Clocks, Reading, SensorError, Source

__all__ = ["NvmlSensor", "cuda_bus_id", "open_nvml"]

PERIOD_S = 0.1
"""NVML's own values are renewed every 20 to 100 ms: asked more often it says the same again."""
_POWER_INSTANT = 186
"""NVML_FI_DEV_POWER_INSTANT: of this moment, where `nvmlDeviceGetPowerUsage` averages over a second from Ampere on."""
_REASONS = {
    0x4: "power cap (software)",
    0x8: "slowdown (hardware)",
    0x10: "sync boost",
    0x20: "thermal (software)",
    0x40: "thermal (hardware)",
    0x80: "power brake (hardware)",
    0x100: "display clocks",
}
"""Bits of NVML's clock event reasons that mean less speed than the clocks' setting would give. Idle is none of them."""
_SET_CLOCKS = 0x2
_GRAPHICS, _SM, _MEMORY = 0, 1, 2

_Ask = Callable[[], float]


def open_nvml() -> NvmlSensor:
    """Return the sensors of the GPU that CUDA takes first; SensorError says why there are none."""
    try:
        api = importlib.import_module("pynvml")
    except ImportError:
        raise SensorError("NVML can't be asked: pip install 'mmtrt[cuda]' (nvidia-ml-py)") from None
    return NvmlSensor(api, bus_id=cuda_bus_id())


def cuda_bus_id() -> str:
    """Return the PCI address of CUDA's first device, which `CUDA_VISIBLE_DEVICES` picks; empty where none is told."""
    with contextlib.suppress(OSError, AttributeError):
        driver = ctypes.CDLL("libcuda.so.1")
        device, text = ctypes.c_int(), ctypes.create_string_buffer(64)
        if not (driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0)) and not driver.cuDeviceGetPCIBusId(
            text, len(text), device
        ):
            return text.value.decode(errors="replace")
    return ""


class NvmlSensor:
    """Fulfils `Sensor`; `api` is the module `pynvml`. SensorError where NVML can't be started or has no such GPU."""

    source: Source = "nvml"
    pause_s = PERIOD_S

    def __init__(self, api: Any, *, bus_id: str = "") -> None:
        self._api = api
        try:
            api.nvmlInit()
        except Exception as error:
            raise SensorError(f"NVML does not start: {error}") from error
        try:
            self._handle = _handle(api, bus_id)
            self.device = _text(api.nvmlDeviceGetName(self._handle))
        except Exception as error:
            self.close()
            raise SensorError(f"NVML does not know the GPU {bus_id or 0}: {error}") from error
        self._asks = _first_that_answer(self._alternatives())
        self._reasons = _first_that_answer({"reasons": self._reason_calls()}).get("reasons")
        self.power_of = self._power_of()
        self.notes = self._notes()

    def read(self) -> Reading:
        """Ask for everything that the GPU has; SensorError where it answers nothing any more."""
        told: dict[str, float] = {}
        failed = []
        for name, ask in self._asks.items():
            try:
                told[name] = ask()
            except Exception:  # noqa: BLE001 - a benchmark does not end for a sensor
                failed.append(name)
        if self._asks and not told:
            raise SensorError("NVML answers no more")
        return Reading(at_s=time.perf_counter(), throttle=self._throttled(), failed=tuple(failed), **told)  # type: ignore[arg-type]

    def clocks(self) -> Clocks:
        """Tell whether the clocks' setting is what limits them now; NVML has no call that tells of locked clocks."""
        persistent = self._flag("nvmlDeviceGetPersistenceMode")
        mode = "" if persistent is None else f"; persistence mode {'on' if persistent else 'off'}"
        if self._reasons is None:
            return Clocks(note=f"NVML does not tell{mode}")
        with contextlib.suppress(Exception):
            if int(self._reasons()) & _SET_CLOCKS:
                return Clocks(locked=True, note=f"held by a setting of the clocks{mode}")
            return Clocks(locked=False, note=f"no setting holds them{mode}")
        return Clocks(note=f"NVML does not tell{mode}")

    def close(self) -> None:
        """Give NVML back."""
        with contextlib.suppress(Exception):
            self._api.nvmlShutdown()

    def _alternatives(self) -> dict[str, Sequence[_Ask]]:
        """Return by field the calls that may tell it, the best first."""
        api, handle = self._api, self._handle
        return {
            "sm_clock_mhz": [lambda: float(api.nvmlDeviceGetClockInfo(handle, _SM))],
            "memory_clock_mhz": [lambda: float(api.nvmlDeviceGetClockInfo(handle, _MEMORY))],
            # The newer call is the one that stays; older drivers know only the other.
            "temperature_c": [
                lambda: float(api.nvmlDeviceGetTemperatureV(handle, 0)),
                lambda: float(api.nvmlDeviceGetTemperature(handle, 0)),
            ],
            "power_w": [self._instant_w, self._usage_w],
            "energy_j": [lambda: api.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3],
            "memory_used_mib": [lambda: api.nvmlDeviceGetMemoryInfo(handle).used / (1 << 20)],
        }

    def _reason_calls(self) -> list[_Ask]:
        api, handle = self._api, self._handle
        return [
            lambda: api.nvmlDeviceGetCurrentClocksEventReasons(handle),
            lambda: api.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
        ]

    def _instant_w(self) -> float:
        value = self._api.nvmlDeviceGetFieldValues(self._handle, [_POWER_INSTANT])[0]
        if value.nvmlReturn:
            raise SensorError("the field is not supported")
        return float(value.value.uiVal) / 1e3

    def _usage_w(self) -> float:
        return float(self._api.nvmlDeviceGetPowerUsage(self._handle)) / 1e3

    def _power_of(self) -> str:
        ask = self._asks.get("power_w")
        if ask is None:
            return ""
        return "the board, of the moment" if ask == self._instant_w else "the board, averaged by the driver"

    def _throttled(self) -> frozenset[str]:
        bits = 0
        if self._reasons is not None:
            with contextlib.suppress(Exception):
                bits = int(self._reasons())
        return frozenset(text for bit, text in _REASONS.items() if bits & bit)

    def _notes(self) -> tuple[str, ...]:
        found = []
        missing = [name for name in self._alternatives() if name not in self._asks]
        if missing:
            found.append(f"the driver does not tell {', '.join(missing)}")
        mig = self._flag("nvmlDeviceGetMigMode", first=True)
        if mig:
            found.append("the GPU is parted (MIG): power and clocks are of the whole of it")
        return tuple(found)

    def _flag(self, call: str, *, first: bool = False) -> bool | None:
        with contextlib.suppress(Exception):
            value = getattr(self._api, call)(self._handle)
            return bool(value[0] if first else value)
        return None


def _handle(api: Any, bus_id: str) -> Any:
    if bus_id:
        with contextlib.suppress(Exception):
            return api.nvmlDeviceGetHandleByPciBusId(bus_id)
    return api.nvmlDeviceGetHandleByIndex(0)


def _text(name: str | bytes) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else name


def _first_that_answer(alternatives: Mapping[str, Sequence[_Ask]]) -> dict[str, _Ask]:
    """Return by name the first call that gives an answer now; a name that none answers is left out."""
    found = {}
    for name, calls in alternatives.items():
        for call in calls:
            with contextlib.suppress(Exception):
                call()
                found[name] = call
                break
    return found
