"""Which board this is and how it is set up, read from files alone: no tool is started, nothing needs root."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mmtrt.machine import devfreq_mhz, gpu_devfreq

__all__ = ["Board", "Family", "board"]

Family = Literal["orin-nano", "orin-nx", "agx-orin", "thor", ""]

_MODULES: dict[str, Family] = {
    "p3767-0000": "orin-nx",
    "p3767-0001": "orin-nx",
    "p3767-0002": "orin-nx",
    "p3767-0003": "orin-nano",
    "p3767-0004": "orin-nano",
    "p3767-0005": "orin-nano",
}
"""By part number: Orin NX 16GB and 8GB; Orin Nano 8GB, 4GB, and the one of the developer kit."""

_SERIES: tuple[tuple[str, Family], ...] = (
    ("p3701", "agx-orin"),
    ("p3834", "thor"),
    ("tegra264", "thor"),
)
_NAMES: tuple[tuple[str, Family], ...] = (
    ("orin nano", "orin-nano"),
    ("orin nx", "orin-nx"),
    ("agx orin", "agx-orin"),
    ("thor", "thor"),
)

_JETPACK = {
    "35.1": "5.0.2",
    "35.2.1": "5.1",
    "35.3.1": "5.1.1",
    "35.4.1": "5.1.2",
    "35.5": "5.1.3",
    "35.6": "5.1.4",
    "35.6.1": "5.1.5",
    "36.3": "6.0",
    "36.4": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
    "36.5": "6.2.2",
    "36.5.2": "6.2.3",
    "38.2": "7.0",
    "38.2.1": "7.0",
    "38.2.2": "7.0",
    "38.4": "7.1",
    "39.2": "7.2",
    "39.2.1": "7.2.1",
}
"""From Jetson Linux (L4T) to JetPack, by NVIDIA's archive of releases; one that is not in it is not known."""

_DISPLAYS = frozenset({"gdm", "gdm3", "lightdm", "sddm", "Xorg", "gnome-shell", "gnome-session-b", "weston"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A board and its settings; empty or None where the machine does not tell, as on a PC.

    `jetpack` is `6.2`, `l4t` `36.4.3`, `power_mode` the name of nvpmodel's mode that holds, `power_modes` all that
    there are, as number and name. `memory_free_mib` is what programs can still have; `zram` says whether there is swap
    in compressed memory, `desktop` whether one runs or starts with the board, and `gpu_clock_held` whether the GPU's
    lowest clock is its highest, as `jetson_clocks` sets it.
    """

    model: str = ""
    family: Family = ""
    jetpack: str | None = None
    l4t: str | None = None
    power_mode: str | None = None
    power_modes: tuple[tuple[int, str], ...] = ()
    memory_total_mib: int | None = None
    memory_free_mib: int | None = None
    swap_mib: int | None = None
    zram: bool | None = None
    desktop: bool | None = None
    gpu_clock_held: bool | None = None

    @property
    def is_jetson(self) -> bool:
        """Whether this is a board of NVIDIA's, of a family that is known or not."""
        return bool(self.family) or self.l4t is not None

    @property
    def best_power_mode(self) -> tuple[int, str] | None:
        """Return the mode without a cap (MAXN), else the one of the most watts; its number is any board's own."""
        return max(self.power_modes, key=lambda mode: _strength(mode[1]), default=None)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


def board(root: Path = Path("/")) -> Board:
    """Look at this machine, or at the tree of one under `root`; raises nothing for what is not there."""
    l4t = _l4t(_text(root / "etc/nv_tegra_release"))
    model = _text(root / "proc/device-tree/model").strip("\0\n ")
    family = _family(model, _text(root / "proc/device-tree/compatible"))
    modes = _modes(_text(root / "etc/nvpmodel.conf"))
    total, free = _memory(_text(root / "proc/meminfo"))
    swap, zram = _swap(root / "proc/swaps")
    return Board(
        model=model,
        family=family,
        # dpkg's list is long, and a PC's has nothing to tell.
        jetpack=_jetpack(root, l4t) if family or l4t else None,
        l4t=l4t,
        power_mode=_mode(_text(root / "var/lib/nvpmodel/status"), modes),
        power_modes=tuple(modes.items()),
        memory_total_mib=total,
        memory_free_mib=free,
        swap_mib=swap,
        zram=zram,
        desktop=_desktop(root),
        gpu_clock_held=_clock_held(root / "sys/class/devfreq"),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _family(model: str, compatible: str) -> Family:
    # The module's part number: a carrier of another maker has its own model name.
    for module in re.findall(r"p3767-\d{4}", compatible):
        if module in _MODULES:
            return _MODULES[module]
    for sign, family in _SERIES:
        if sign in compatible:
            return family
    name = model.lower()
    return next((family for sign, family in _NAMES if sign in name), "")


# ------------------------------------------------------------------------------------------------ releases


def _l4t(release: str) -> str | None:
    found = re.search(r"R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)", release)
    return f"{found[1]}.{found[2]}" if found else None


def _jetpack(root: Path, l4t: str | None) -> str | None:
    installed = _package(root / "var/lib/dpkg/status", "nvidia-jetpack")
    if installed is not None:
        return installed.partition("+")[0].partition("-")[0]
    return None if l4t is None else _JETPACK.get(l4t.removesuffix(".0"))


def _package(status: Path, name: str) -> str | None:
    """Return a package's version as dpkg has it, None where it is not installed."""
    wanted = {"Package": name}
    for line in _lines(status):
        key, _, value = line.partition(": ")
        if key == "Package":
            wanted = {"Package": value.strip()}
        elif wanted["Package"] == name and key in {"Status", "Version"}:
            wanted[key] = value.strip()
        if wanted["Package"] == name and len(wanted) == 3:
            return wanted["Version"] if wanted["Status"].endswith(" installed") else None
    return None


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            yield from file
    except OSError:
        return


# ---------------------------------------------------------------------------------------- power and memory


def _modes(conf: str) -> dict[int, str]:
    rows = re.findall(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=([^\s>]+)", conf, re.MULTILINE)
    return {int(number): name for number, name in rows}


def _mode(status: str, modes: dict[int, str]) -> str | None:
    found = re.search(r"pmode:\s*(\d+)", status)
    return modes.get(int(found[1]), str(int(found[1]))) if found else None


def _strength(name: str) -> tuple[int, int]:
    if "MAXN" in name.upper():
        # MAXN_SUPER is over MAXN where both are there.
        return 1, len(name)
    watts = re.search(r"(\d+)\s*W", name, re.IGNORECASE)
    return 0, int(watts[1]) if watts else 0


def _memory(meminfo: str) -> tuple[int | None, int | None]:
    found = {name: int(size) >> 10 for name, size in re.findall(r"^(\w+):\s+(\d+) kB", meminfo, re.MULTILINE)}
    return found.get("MemTotal"), found.get("MemAvailable")


def _swap(swaps: Path) -> tuple[int | None, bool | None]:
    rows = [line.split() for line in _lines(swaps)]
    if not rows:
        return None, None
    there = [row for row in rows[1:] if len(row) > 2 and row[2].isdigit()]
    return sum(int(row[2]) for row in there) >> 10, any("zram" in row[0] for row in there)


def _clock_held(devfreq: Path) -> bool | None:
    folder = gpu_devfreq(devfreq)
    low, high = devfreq_mhz(folder, "min_freq"), devfreq_mhz(folder, "max_freq")
    return None if low is None or high is None else low == high


# ------------------------------------------------------------------------------------------------- desktop


def _desktop(root: Path) -> bool | None:
    if any(_text(comm).strip() in _DISPLAYS for comm in _processes(root / "proc")):
        return True
    target = _link(root / "etc/systemd/system/default.target") or _link(root / "lib/systemd/system/default.target")
    if target is None:
        return None
    # Ubuntu's servers start `graphical.target` too, with nothing in it.
    return target == "graphical.target" and _link(root / "etc/systemd/system/display-manager.service") is not None


def _processes(proc: Path) -> Iterator[Path]:
    try:
        yield from (process / "comm" for process in proc.iterdir() if process.name.isdigit())
    except OSError:
        return


def _link(path: Path) -> str | None:
    """Return the name that a link leads to; the link itself may lead out of `root`, so it is not followed."""
    try:
        return path.readlink().name
    except OSError:
        return None
