"""Trees of files as boards have them, for what reads a machine under a root: names and forms theirs, figures any."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["BOARDS", "Tree", "plant"]


@dataclass(frozen=True)
class Tree:
    """What a board's files say; `modes` are nvpmodel's, by number, `mode` the one that holds."""

    model: str
    compatible: tuple[str, ...]
    release: str
    jetpack: str
    modes: tuple[str, ...]
    mode: int
    memory_kib: int
    available_kib: int
    swaps: tuple[str, ...]
    target: str
    processes: tuple[str, ...] = ("systemd", "python3")
    clocks: tuple[int, int] = (306_000_000, 1_020_000_000)


BOARDS = {
    "orin-nano": Tree(
        model="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        compatible=("nvidia,p3768-0000+p3767-0005-super", "nvidia,p3767-0005", "nvidia,tegra234"),
        release="# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64",
        jetpack="6.2+b77",
        modes=("15W", "25W", "MAXN_SUPER", "7W"),
        mode=0,
        memory_kib=7_802_880,
        available_kib=4_194_304,
        swaps=tuple(f"/dev/zram{i} partition 650240 0 5" for i in range(6)),
        target="graphical.target",
        processes=("systemd", "gdm3", "gnome-shell"),
    ),
    "orin-nx": Tree(
        model="NVIDIA Jetson Orin NX Engineering Reference Developer Kit",
        compatible=("nvidia,p3768-0000+p3767-0000", "nvidia,p3767-0000", "nvidia,tegra234"),
        release="# R36 (release), REVISION: 4.0, GCID: 37537400, BOARD: generic, EABI: aarch64",
        jetpack="6.1+b123",
        modes=("MAXN", "10W", "15W", "25W"),
        mode=3,
        memory_kib=15_982_592,
        available_kib=12_582_912,
        swaps=("/swapfile file 8388604 0 -2",),
        target="multi-user.target",
        clocks=(918_000_000, 918_000_000),
    ),
    "agx-orin": Tree(
        model="NVIDIA Jetson AGX Orin Developer Kit",
        compatible=("nvidia,p3737-0000+p3701-0005", "nvidia,p3701-0005", "nvidia,tegra234"),
        release="# R36 (release), REVISION: 4.4, GCID: 41062509, BOARD: generic, EABI: aarch64",
        jetpack="6.2.1+b38",
        modes=("MAXN", "MODE_15W", "MODE_30W", "MODE_50W"),
        mode=0,
        memory_kib=64_308_224,
        available_kib=50_331_648,
        swaps=(),
        target="multi-user.target",
    ),
    "thor": Tree(
        model="NVIDIA Jetson AGX Thor Developer Kit",
        compatible=("nvidia,p3971-0089+p3834-0008", "nvidia,p3834-0008", "nvidia,tegra264"),
        release="# R38 (release), REVISION: 4.0, GCID: 43443517, BOARD: generic, EABI: aarch64",
        jetpack="7.1-b112",
        modes=("MAXN", "120W", "90W", "70W"),
        mode=1,
        memory_kib=128_766_976,
        available_kib=100_663_296,
        swaps=(),
        target="graphical.target",
        clocks=(315_000_000, 1_575_000_000),
    ),
}


def plant(root: Path, name: str) -> Path:
    """Write the files of a board under `root`, and return it."""
    tree = BOARDS[name]
    modes = "\n".join(f"< POWER_MODEL ID={i} NAME={mode} >\nCPU_ONLINE CORE_0 1" for i, mode in enumerate(tree.modes))
    texts = {
        "etc/nv_tegra_release": tree.release + "\n# KERNEL_VARIANT: oot\n",
        "etc/nvpmodel.conf": f"# a comment with < POWER_MODEL in it\n{modes}\n< PM_CONFIG DEFAULT=0 >\n",
        "var/lib/nvpmodel/status": f"pmode:{tree.mode:04} fmode:quiet",
        "var/lib/dpkg/status": _dpkg(tree.jetpack),
        "proc/device-tree/model": tree.model + "\0",
        "proc/device-tree/compatible": "\0".join(tree.compatible) + "\0",
        "proc/meminfo": f"MemTotal:  {tree.memory_kib} kB\nMemFree: 1 kB\nMemAvailable: {tree.available_kib} kB\n",
        "proc/swaps": "\n".join(("Filename\tType\tSize\tUsed\tPriority", *tree.swaps)) + "\n",
        "sys/class/devfreq/17000000.gpu/min_freq": str(tree.clocks[0]),
        "sys/class/devfreq/17000000.gpu/max_freq": str(tree.clocks[1]),
        **{f"proc/{100 + i}/comm": f"{process}\n" for i, process in enumerate(tree.processes)},
    }
    for path, text in texts.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    system = root / "etc/systemd/system"
    system.mkdir(parents=True)
    (system / "default.target").symlink_to(f"/lib/systemd/system/{tree.target}")
    if tree.target == "graphical.target" and "gdm3" in tree.processes:
        (system / "display-manager.service").symlink_to("/lib/systemd/system/gdm3.service")
    return root


def _dpkg(jetpack: str) -> str:
    rows = (
        ("nvidia-l4t-core", "install ok installed", "1.0"),
        ("nvidia-jetpack-runtime", "install ok installed", "2.0"),
        ("nvidia-jetpack", "install ok installed", jetpack),
    )
    return "\n".join(
        f"Package: {name}\nStatus: {status}\nSection: metapackages\nVersion: {version}\n"
        for name, status, version in rows
    )
