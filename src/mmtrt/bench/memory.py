"""Memory that measuring takes: of this process, and of the device where a runner can tell."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Protocol, runtime_checkable

__all__ = ["TellsMemory", "device_mib", "peak_rss_mib", "rss_mib"]

_MIB = 1 << 20


@runtime_checkable
class TellsMemory(Protocol):
    """A runner that knows how much device memory it holds."""

    @property
    def device_bytes(self) -> int | None:
        """Bytes of device memory that became used while it was loaded and ran; None where that can't be told."""
        ...


def device_mib(runner: object) -> float | None:
    """Return the device memory that a runner holds, in MiB; None where it can't tell."""
    held = runner.device_bytes if isinstance(runner, TellsMemory) else None
    return None if held is None else held / _MIB


def rss_mib() -> float | None:
    """Return the memory of this process that is in RAM now, in MiB; None where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError, AttributeError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / _MIB
    return None


def peak_rss_mib() -> float | None:
    """Return the most memory that this process ever had in RAM, in MiB; None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, all others KiB.
    return peak / _MIB if sys.platform == "darwin" else peak / 1024
