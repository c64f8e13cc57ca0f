"""What GPU there is, asked of the driver itself: it takes no package, and tells of a broken driver."""

from __future__ import annotations

import ctypes
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["GpuInfo", "gpu", "gpu_trouble"]

_LIBRARY = "libcuda.so.1"
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
    """The first GPU: `compute_capability` as `8.7`, memory in MiB, `driver` with the newest CUDA it runs."""

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
        return _ask()
    except _DriverError:
        return None


def gpu_trouble() -> str:
    """Say why `gpu` found none; empty where it found one."""
    try:
        _ask()
    except _DriverError as error:
        return str(error)
    return ""


def _ask() -> GpuInfo:
    try:
        driver = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        missing = "cannot open shared object file" in str(error)
        raise _DriverError(f"no NVIDIA driver: {_LIBRARY} is not there" if missing else str(error)) from error

    def call(function: str, *args: Any) -> None:
        try:
            code = int(getattr(driver, function)(*args))
        except AttributeError as error:
            raise _DriverError(f"{_LIBRARY} lacks {function}: no NVIDIA driver") from error
        if code:
            raise _DriverError(f"{_TROUBLES.get(code, 'the driver failed')} ({function} said {code})")

    def number(function: str, *args: Any, kind: type[Any] = ctypes.c_int) -> int:
        value = kind()
        call(function, ctypes.byref(value), *args)
        return int(value.value)

    call("cuInit", 0)
    if number("cuDeviceGetCount") < 1:
        raise _DriverError("the driver sees no GPU")
    device = number("cuDeviceGet", 0)
    name = ctypes.create_string_buffer(256)
    call("cuDeviceGetName", name, len(name), device)
    major, minor = (number("cuDeviceGetAttribute", a, device) for a in (_ATTRIBUTE_MAJOR, _ATTRIBUTE_MINOR))
    memory = number("cuDeviceTotalMem_v2", device, kind=ctypes.c_size_t)
    return GpuInfo(
        name=name.value.decode(errors="replace"),
        compute_capability=f"{major}.{minor}",
        memory_mib=memory >> 20,
        driver=_driver_text(number("cuDriverGetVersion")),
    )


def _driver_text(cuda: int) -> str:
    newest = f"CUDA {cuda // 1000}.{cuda % 1000 // 10}"
    try:
        found = re.search(r"\d+\.\d+(\.\d+)?", _DRIVER_VERSION.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        # Jetson's driver has no such file.
        return newest
    return f"{found[0]} ({newest})" if found else newest
