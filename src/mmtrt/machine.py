"""What a reader of a measurement must know of the machine that it was taken on."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from pathlib import Path
from typing import Any

__all__ = ["DEVFREQ", "available_cores", "devfreq_mhz", "gpu_devfreq", "machine"]

DEVFREQ = Path("/sys/class/devfreq")
"""Where the kernel tells the clocks of a board's devices."""
_GPU_NAMES = re.compile(r"gpu|gv11b|ga10b|gp10b", re.IGNORECASE)


def available_cores() -> int:
    """Cores that this process may use, which in a container are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """Return processor, cores that may be used, memory in GiB, system and architecture."""
    return {
        "cpu": _cpu_name(),
        "cores": available_cores(),
        "memory_gib": _memory_gib(),
        "system": platform.system(),
        "arch": platform.machine(),
    }


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _memory_gib() -> float | None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1)
    return None


def gpu_devfreq(devfreq: Path = DEVFREQ) -> Path | None:
    """Return the folder of a board's GPU below `devfreq`; None where there is none."""
    with contextlib.suppress(OSError):
        return next((folder for folder in sorted(devfreq.iterdir()) if _GPU_NAMES.search(folder.name)), None)
    return None


def devfreq_mhz(folder: Path | None, name: str) -> float | None:
    """Return one of a device's clocks in MHz: `cur_freq`, `min_freq`, `max_freq`; None where it is not told."""
    with contextlib.suppress(OSError, ValueError):
        return int((folder / name).read_text(encoding="ascii")) / 1e6 if folder else None
    return None
