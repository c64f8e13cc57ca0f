"""What the doctor says of a Jetson: its release, power, memory, TensorRT's bindings, and who may use the GPU."""

from __future__ import annotations

import grp
import os
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from mmtrt.engine.board import Board
from mmtrt.engine.finding import Finding
from mmtrt.engine.preflight import free_memory_advice, power_advice

__all__ = ["bindings_fix", "board_findings"]

_SMALL_MIB = 9 * 1024
"""Boards of 8 GB have less, and run out of memory when they build."""
_OLDEST = (6, 1)
_DEVICES = ("nvmap", "nvgpu/igpu0/ctrl", "nvhost-ctrl-gpu", "nvidiactl", "nvidia0", "dri/renderD128")


def board_findings(board: Board, root: Path = Path("/")) -> list[Finding]:
    """Return what there is to say of a board; nothing of a machine that is no Jetson."""
    if not board.is_jetson:
        return []
    return [_release(board), _power(board), _clocks(board), _memory(board), *_devices(root)]


def _release(board: Board) -> Finding:
    jetpack = f"JetPack {board.jetpack}" if board.jetpack else "JetPack unknown"
    linux = f"Jetson Linux {board.l4t}" if board.l4t else ""
    kind = f"target {board.family}" if board.family else "no target is made for it"
    detail = ", ".join(filter(None, (board.model or "Jetson", jetpack, linux, kind)))
    if board.jetpack is None:
        fix = "`apt show nvidia-jetpack` tells it; `sudo apt install nvidia-jetpack` installs what belongs to it."
        return Finding(name="Jetson", state="warn", detail=detail, fix=fix)
    if tuple(map(int, re.findall(r"\d+", board.jetpack)[:2])) < _OLDEST:
        fix = "mmtrt is made for JetPack 6.1 and later: flash the board anew."
        return Finding(name="Jetson", state="warn", detail=detail, fix=fix)
    return Finding(name="Jetson", state="ok", detail=detail)


def _power(board: Board) -> Finding:
    best = board.best_power_mode
    if board.power_mode is None or best is None:
        fix = "`sudo nvpmodel -q` tells the mode."
        return Finding(name="power mode", state="warn", detail="unknown", fix=fix)
    if board.power_mode == best[1]:
        return Finding(name="power mode", state="ok", detail=board.power_mode)
    fix = f"For the highest clocks, where power and cooling allow: {power_advice(board, best[1])}"
    return Finding(name="power mode", state="warn", detail=board.power_mode, fix=fix)


def _clocks(board: Board) -> Finding:
    if board.gpu_clock_held is None:
        return Finding(name="clocks", state="warn", detail="unknown: the GPU's are not told")
    if board.gpu_clock_held:
        return Finding(name="clocks", state="ok", detail="the GPU's clock is held")
    fix = "To measure: `sudo jetson_clocks` holds them at the highest of the power mode, until the next start."
    return Finding(name="clocks", state="warn", detail="the GPU's clock follows the load", fix=fix)


def _memory(board: Board) -> Finding:
    free, total = (f"{size} MiB" if size is not None else "unknown" for size in _sizes(board))
    swap = "swap unknown" if board.swap_mib is None else f"swap {board.swap_mib} MiB{' (zram)' if board.zram else ''}"
    desktop = {True: "desktop on", False: "desktop off", None: "desktop unknown"}[board.desktop]
    detail = f"{free} free of {total}, {swap}, {desktop}"
    small = board.memory_total_mib is not None and board.memory_total_mib < _SMALL_MIB
    advice = free_memory_advice(board) if small else []
    return Finding(name="shared memory", state="warn" if advice else "ok", detail=detail, fix=" ".join(advice))


def _sizes(board: Board) -> tuple[int | None, int | None]:
    return board.memory_free_mib, board.memory_total_mib


def _devices(root: Path) -> Iterator[Finding]:
    """Tell which of the GPU's device files this user may not open, and who may."""
    closed = [
        path for name in _DEVICES if (path := root / "dev" / name).exists() and not os.access(path, os.R_OK | os.W_OK)
    ]
    if closed:
        groups = sorted({_group(path) for path in closed})
        fix = f"`sudo usermod -aG {','.join(groups)} $USER`, then log in anew."
        detail = f"{', '.join(path.name for path in closed)}: this user may not open them"
        yield Finding(name="GPU devices", state="missing", detail=detail, fix=fix)


def _group(path: Path) -> str:
    number = path.stat().st_gid
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def bindings_fix(root: Path = Path("/")) -> str:
    """Return what a board lacks so that its TensorRT can be imported here, by what its system's Python has."""
    there = sorted(root.glob("usr/lib/python3*/dist-packages/tensorrt"))
    if not there:
        return "`sudo apt install python3-libnvinfer` installs the bindings of the board's TensorRT."
    version = there[-1].parts[-3].removeprefix("python")
    # Debian's `python3` folder serves each version; a numbered one serves its own.
    ours = ".".join(platform.python_version_tuple()[:2])
    if version not in {"3", ours}:
        return f"The board's TensorRT is for Python {version}, and this is {ours}: make the venv with python{version}."
    if sys.prefix == sys.base_prefix:
        return "The bindings are there and do not load: `sudo apt install --reinstall python3-libnvinfer`."
    return (
        "This venv does not see the board's TensorRT: make it anew with `python3 -m venv --system-site-packages`, or "
        "set include-system-site-packages = true in its pyvenv.cfg."
    )
