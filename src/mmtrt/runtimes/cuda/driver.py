"""What GPU there is, asked of the driver itself: it takes no package, and tells of a broken driver."""

from __future__ import annotations

import ctypes
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["LIBRARY", "GpuInfo", "gpu", "gpu_trouble", "gpus"]

LIBRARY = "libcuda.so.1"
"""The driver's library, which comes with the driver and with no package."""

_DRIVER_VERSION = Path("/proc/driver/nvidia/version")
_ATTRIBUTE_MAJOR, _ATTRIBUTE_MINOR = 75, 76
_TROUBLES = {
    3: "the driver is not initialised",
    34: "the driver library is a stub: install the real driver",
    35: "the driver is older than this CUDA needs",
    46: "the device is in use or unavailable",
    100: "the driver sees no GPU",
    101: "the device number is not valid",
    304: "the operating system refused a call of the driver",
    802: "the system is not ready: start the fabric manager",
    803: "the driver and its library do not match: restart the machine",
    804: "forward compatibility is not possible on this GPU",
    999: "the driver failed for an unknown reason",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuInfo:
    """One GPU: `compute_capability` as `8.7`, memory in MiB, `driver` with the newest CUDA it runs."""

    name: str
    compute_capability: str
    memory_mib: int
    driver: str

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


class _DriverError(Exception):
    pass


def gpu() -> GpuInfo | None:
    """Return the first GPU; None where there is none, no driver or a broken one: see `gpu_trouble`."""
    try:
        return _Driver().gpu(0)
    except _DriverError:
        return None


def gpus() -> tuple[GpuInfo, ...]:
    """Return the GPUs that CUDA counts in this process, which `CUDA_VISIBLE_DEVICES` limits; empty as `gpu` is None."""
    try:
        driver = _Driver()
        return tuple(driver.gpu(index) for index in range(driver.count))
    except _DriverError:
        return ()


def gpu_trouble() -> str:
    """Say why `gpu` found none; empty where it found one."""
    try:
        _Driver().gpu(0)
    except _DriverError as error:
        return str(error)
    return ""


class _Driver:
    """The driver, initialised, with `count` GPUs, at least one; what fails raises _DriverError."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            missing = "cannot open shared object file" in str(error)
            raise _DriverError(f"no NVIDIA driver: {LIBRARY} is not there" if missing else str(error)) from error
        self._call("cuInit", 0)
        self.count = self._number("cuDeviceGetCount")
        if self.count < 1:
            raise _DriverError("the driver sees no GPU")

    def gpu(self, index: int) -> GpuInfo:
        device = self._number("cuDeviceGet", index)
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, len(name), device)
        attributes = (_ATTRIBUTE_MAJOR, _ATTRIBUTE_MINOR)
        major, minor = (self._number("cuDeviceGetAttribute", attribute, device) for attribute in attributes)
        memory = self._number("cuDeviceTotalMem_v2", device, kind=ctypes.c_size_t)
        return GpuInfo(
            name=name.value.decode(errors="replace"),
            compute_capability=f"{major}.{minor}",
            memory_mib=memory >> 20,
            driver=_driver_text(self._number("cuDriverGetVersion")),
        )

    def _call(self, function: str, *args: Any) -> None:
        try:
            code = int(getattr(self._library, function)(*args))
        except AttributeError as error:
            raise _DriverError(f"{LIBRARY} lacks {function}: no NVIDIA driver") from error
        if code:
            raise _DriverError(f"{_TROUBLES.get(code, 'the driver failed')} ({function} said {code})")

    def _number(self, function: str, *args: Any, kind: type[Any] = ctypes.c_int) -> int:
        value = kind()
        self._call(function, ctypes.byref(value), *args)
        return int(value.value)


def _driver_text(cuda: int) -> str:
    newest = f"CUDA {cuda // 1000}.{cuda % 1000 // 10}"
    try:
        found = re.search(r"\d+\.\d+(\.\d+)?", _DRIVER_VERSION.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        # Jetson's driver has no such file.
        return newest
    return f"{found[0]} ({newest})" if found else newest
