"""Which board this is and how it is set up, read from files alone: no tool is started, nothing needs root."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Board", "board"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A board and its settings; empty or None where the machine does not tell, as on a PC."""

    model: str = ""
    family: str = ""
    jetpack: str | None = None
    l4t: str | None = None
    power_mode: str | None = None
    memory_total_mib: int | None = None
    memory_free_mib: int | None = None
    swap_mib: int | None = None
    zram: bool | None = None
    desktop: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


def board(root: Path = Path("/")) -> Board:
    """Look at this machine, or at the tree of one under `root`; raises nothing for what is not there."""
    sizes = dict(re.findall(r"^(\w+):\s+(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE))
    total, free = (int(sizes[name]) >> 10 if name in sizes else None for name in ("MemTotal", "MemAvailable"))
    model = _text(root / "proc/device-tree/model").strip("\0\n ")
    return Board(model=model, memory_total_mib=total, memory_free_mib=free)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
