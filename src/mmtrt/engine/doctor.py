"""What this machine has and what it can do, as plain data; nothing heavy is imported but TensorRT itself."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import mmtrt
from mmtrt.artifacts import StageCache
from mmtrt.engine.flavours import Flavour, gpu, gpu_trouble, probe
from mmtrt.errors import MachineError
from mmtrt.runtimes.tensorrt_api import FLAVOURS, LABELS, FlavourName, install_line

__all__ = ["Finding", "State", "diagnose"]

State = Literal["ok", "missing", "warn"]

_TEGRA = Path("/etc/nv_tegra_release")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at: `detail` says what was found, `fix` what to do, empty where nothing is.

    `name` begins with `can ` where it is an ability: export, calibrate, build ahead of time, build here, run.
    """

    name: str
    state: State
    detail: str
    fix: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


def diagnose() -> list[Finding]:
    """Look at this machine. It takes about a second, and raises nothing for what is missing or broken."""
    flavours = {name: _flavour(name) for name in FLAVOURS}
    packages = {name: _version(name) for name in _PACKAGES}
    return [
        _python(),
        Finding(name="mmtrt", state="ok", detail=mmtrt.__version__),
        _cores(),
        _memory(),
        _cache(),
        *_jetson(),
        _gpu(),
        *(found for found, _ in flavours.values()),
        *(_package(name, version) for name, version in packages.items()),
        *_abilities({name: loaded for name, (_, loaded) in flavours.items()}, packages),
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
    root = StageCache.default().root or Path.home()
    there = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free / 2**30
    detail = f"{root}, {free:.1f} GiB free"
    if not os.access(there, os.W_OK):
        fix = "Set MMTRT_CACHE_DIR to a folder that can be written."
        return Finding(name="cache", state="warn", detail=f"{root} can't be written", fix=fix)
    if free < _FEW_GIB:
        fix = "Free some space, or set MMTRT_CACHE_DIR to another disk."
        return Finding(name="cache", state="warn", detail=detail, fix=fix)
    return Finding(name="cache", state="ok", detail=detail)


def _jetson() -> list[Finding]:
    release = _text(_TEGRA).strip().splitlines()
    if not release:
        return []
    return [Finding(name="Jetson", state="ok", detail=release[0].lstrip("# "))]


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


def _flavour(name: FlavourName) -> tuple[Finding, Flavour | None]:
    try:
        flavour = probe(name)
    except MachineError as error:
        return Finding(name=LABELS[name], state="missing", detail=error.message, fix=error.fix or ""), None
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
