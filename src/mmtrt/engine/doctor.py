"""What this machine has and what it can do, as plain data; nothing heavy is imported but TensorRT itself."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import mmtrt
from mmtrt.artifacts import StageCache
from mmtrt.engine.board import Board, board
from mmtrt.engine.board_findings import bindings_fix, board_findings
from mmtrt.engine.finding import Finding, State
from mmtrt.engine.flavours import Flavour, gpu, gpu_trouble, probe
from mmtrt.engine.preflight import preflight
from mmtrt.engine.targets import Target
from mmtrt.errors import MachineError
from mmtrt.runtimes.tensorrt_api import FLAVOURS, LABELS, FlavourName, install_line

__all__ = ["Finding", "State", "diagnose"]

_MEMORY = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup/memory.max")
_FEW_GIB = 2
_PACKAGES = {
    "torch": "mmtrt[export]",
    "onnx": "mmtrt[onnx]",
    "onnxruntime": "mmtrt[onnx]",
    "onnxscript": "mmtrt[onnx]",
    "polygraphy": "mmtrt[onnx]",
    "transformers": "mmtrt[hf]",
    "cuda-core": "mmtrt[cuda]",
    "cuda-bindings": "mmtrt[cuda]",
    "nvidia-ml-py": "mmtrt[cuda]",
    "pycuda": "mmtrt[pycuda]",
}


def diagnose(target: Target | None = None, *, root: Path = Path("/")) -> list[Finding]:
    """Look at this machine, and hold it against a target where one is given.

    It takes about a second, and raises nothing for what is missing or broken. A board's files are read under `root`.
    """
    here = board(root)
    flavours = {name: _flavour(name, here, root) for name in FLAVOURS}
    packages = {name: _version(name) for name in _PACKAGES}
    return [
        _python(),
        Finding(name="mmtrt", state="ok", detail=mmtrt.__version__),
        _cores(),
        _memory(),
        _cache(),
        *board_findings(here, root),
        _gpu(),
        *(found for found, _ in flavours.values()),
        *(_package(name, version) for name, version in packages.items()),
        *_abilities({name: loaded for name, (_, loaded) in flavours.items()}, packages),
        *(_lacking(target, here, [loaded for _, loaded in flavours.values() if loaded]) if target else ()),
    ]


# --------------------------------------------------------------------------------------------- the machine


def _python() -> Finding:
    detail = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    return Finding(name="Python", state="ok", detail=detail)


def _cores() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding(name="CPU", state="ok", detail=f"{usable} cores")


def _memory() -> Finding:
    total = _memory_gib()
    if total is None:
        return Finding(name="memory", state="warn", detail="unknown: this system does not tell")
    detail = f"{total:.1f} GiB"
    if total < _FEW_GIB:
        fix = "The builder can run out of it: build on another machine, or add swap."
        return Finding(name="memory", state="warn", detail=detail, fix=fix)
    return Finding(name="memory", state="ok", detail=detail)


def _memory_gib() -> float | None:
    """Return the machine's memory, or the container's limit where that is less."""
    sizes = []
    if found := re.search(r"MemTotal:\s+(\d+) kB", _text(_MEMORY)):
        sizes.append(int(found[1]) / 2**20)
    if (limit := _text(_CGROUP).strip()).isdigit():
        sizes.append(int(limit) / 2**30)
    return min(sizes, default=None)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _cache() -> Finding:
    root, there, free = _cache_disk()
    detail = f"{root}, {free:.1f} GiB free"
    if not os.access(there, os.W_OK):
        fix = "Set MMTRT_CACHE_DIR to a folder that can be written."
        return Finding(name="cache", state="warn", detail=f"{root} can't be written", fix=fix)
    if free < _FEW_GIB:
        fix = "Free some space, or set MMTRT_CACHE_DIR to another disk."
        return Finding(name="cache", state="warn", detail=detail, fix=fix)
    return Finding(name="cache", state="ok", detail=detail)


def _cache_disk() -> tuple[Path, Path, float]:
    """Return the cache's folder, the part of it that is there already, and the free space on that disk in GiB."""
    root = StageCache.default().root or Path.home()
    there = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    return root, there, shutil.disk_usage(there).free / 2**30


def _gpu() -> Finding:
    found = gpu()
    if found is None:
        fix = "Engines can be built ahead of time here, not run."
        return Finding(name="GPU", state="missing", detail=gpu_trouble(), fix=fix)
    detail = (
        f"{found.name}, compute capability {found.compute_capability}, {found.memory_mib} MiB, driver {found.driver}"
    )
    return Finding(name="GPU", state="ok", detail=detail)


# ---------------------------------------------------------------------------------------- what is installed


def _flavour(name: FlavourName, here: Board, root: Path) -> tuple[Finding, Flavour | None]:
    try:
        flavour = probe(name)
    except MachineError as error:
        fix = bindings_fix(root) if here.is_jetson and name == "tensorrt" else error.fix or ""
        return Finding(name=LABELS[name], state="missing", detail=error.message, fix=fix), None
    has_gpu = gpu() is not None
    builds = has_gpu or not flavour.needs_gpu_to_build
    detail = f"{flavour.version}: builds here: {_yes(builds)}; runs here: {_yes(has_gpu and _reaches_cuda())}"
    if builds:
        return Finding(name=LABELS[name], state="ok", detail=detail), flavour
    fix = f"It needs a GPU to build. Without one: {install_line('tensorrt-rtx')}"
    return Finding(name=LABELS[name], state="warn", detail=detail, fix=fix), flavour


def _yes(answer: object) -> str:
    return "yes" if answer else "no"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _package(name: str, version: str | None) -> Finding:
    if version is None:
        fix = f"pip install '{_PACKAGES[name]}'"
        return Finding(name=name, state="missing", detail="not installed", fix=fix)
    return Finding(name=name, state="ok", detail=version)


def _reaches_cuda() -> bool:
    return any(_version(package) for package in ("cuda-core", "pycuda"))


# ------------------------------------------------------------------------------------------ what it can do


def _abilities(flavours: dict[FlavourName, Flavour | None], packages: dict[str, str | None]) -> list[Finding]:
    def lacking(needed: Sequence[str]) -> list[str]:
        return sorted({f"pip install '{_PACKAGES[name]}'" for name in needed if packages[name] is None})

    has_gpu = gpu() is not None
    onnx = ("onnx", "onnxruntime")
    here = [f for f in flavours.values() if f and (has_gpu or not f.needs_gpu_to_build)]
    run = [] if has_gpu else ["a GPU: " + gpu_trouble()]
    run += [] if any(flavours.values()) else [install_line("tensorrt-rtx")]
    run += [] if _reaches_cuda() else ["pip install 'mmtrt[cuda]'"]
    return [
        _ability("export", lacking(("torch", *onnx, "onnxscript"))),
        _ability("calibrate", lacking(onnx)),
        _ability("build ahead of time", [] if flavours["tensorrt-rtx"] else [install_line("tensorrt-rtx")]),
        _ability("build here", [] if here else [install_line("tensorrt-rtx")]),
        _ability("run", run),
    ]


def _ability(name: str, lacking: list[str]) -> Finding:
    return Finding(
        name=f"can {name}",
        state="missing" if lacking else "ok",
        detail=_yes(not lacking),
        fix="; ".join(lacking),
    )


def _lacking(target: Target, here: Board, flavours: Sequence[Flavour]) -> list[Finding]:
    found = preflight(
        target,
        board=here,
        gpu=gpu(),
        flavours=flavours,
        disk_free_mib=_cache_disk()[2] * 1024,
        needed_mib=_FEW_GIB * 1024,
    )
    if not found:
        return [Finding(name=f"for {target.name}", state="ok", detail="all that the target asks for is here")]
    return [
        Finding(
            name=f"for {target.name}: {mismatch.what}",
            state="missing" if mismatch.stops else "warn",
            detail=f"{mismatch.found}; wanted: {mismatch.wanted}",
            fix=mismatch.fix,
        )
        for mismatch in found
    ]
