"""What a target asks of the machine, and what it finds: each mismatch is named, with its mend."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmtrt.engine.board import Board, board
from mmtrt.engine.flavours import Flavour, GpuInfo, gpu, gpu_trouble, installed
from mmtrt.engine.targets import Target
from mmtrt.isolation import run_isolated
from mmtrt.machine import machine
from mmtrt.results import Mismatch
from mmtrt.runtimes.tensorrt_api import FLAVOURS, LABELS, FlavourName, install_line

__all__ = ["Machine", "flavour_for", "look", "mismatches", "room"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What matters of a machine to a deploy; `gpu_trouble` says why there is no GPU."""

    flavours: tuple[Flavour, ...]
    gpu: GpuInfo | None
    gpu_trouble: str
    reaches_cuda: bool
    board: Board

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            **machine(),
            "gpu": self.gpu.to_json() if self.gpu else None,
            "flavors": {flavour.name: flavour.version for flavour in self.flavours},
            "board": self.board.to_json(),
        }


def look() -> Machine:
    """Look at this machine."""
    return Machine(
        # TensorRT's libraries would stay in this process, and take memory from the builder.
        flavours=tuple(run_isolated(installed, what="the look at TensorRT")),
        gpu=gpu(),
        gpu_trouble=gpu_trouble(),
        reaches_cuda=_has("cuda", "cuda.core") or _has("pycuda", "pycuda.driver"),
        board=board(),
    )


def _has(package: str, module: str) -> bool:
    return find_spec(package) is not None and find_spec(module) is not None


def flavour_for(target: Target, machine: Machine) -> Flavour | None:
    """Return the TensorRT that a target is built with here; None where it is not installed."""
    here = {flavour.name: flavour for flavour in machine.flavours}
    if target.flavor == "auto":
        order = FLAVOURS if machine.gpu is not None else tuple(reversed(FLAVOURS))
        return next((here[name] for name in order if name in here), None)
    return next((flavour for name, flavour in here.items() if name == target.flavor), None)


def mismatches(target: Target, machine: Machine, *, runs: bool) -> tuple[Mismatch, ...]:
    """Return what is otherwise than a target asks; `runs` tells whether the engine is to run here, or is built only."""
    return (*_tensorrt(target, machine), *_gpu(target, machine, runs=runs), *_memory(target, machine))


def _tensorrt(target: Target, machine: Machine) -> Iterator[Mismatch]:
    flavour = flavour_for(target, machine)
    if flavour is None:
        name: FlavourName = next((name for name in FLAVOURS if name == target.flavor), "tensorrt-rtx")
        yield Mismatch(what="TensorRT", wanted=LABELS[name], found="not installed", fix=install_line(name))


def _gpu(target: Target, machine: Machine, *, runs: bool) -> Iterator[Mismatch]:
    flavour = flavour_for(target, machine)
    needed = runs or (flavour is not None and flavour.needs_gpu_to_build)
    if machine.gpu is None:
        yield Mismatch(
            what="GPU",
            wanted="an NVIDIA GPU" + ("" if runs else " to run on"),
            found=f"none: {machine.gpu_trouble}",
            fix="Deploy on the machine with the GPU; --build-only builds here what can be built ahead of time."
            if needed
            else "The engine is built, not run.",
            stops=needed,
        )
        return
    wanted = target.compute_capability
    own = f"SM{machine.gpu.compute_capability.replace('.', '')}"
    if wanted is not None and wanted not in {"CURRENT", own}:
        yield Mismatch(
            what="compute capability",
            wanted=wanted,
            found=f"{own} ({machine.gpu.name})",
            fix="Choose the target of this GPU, or make the bundle with one.",
            stops=runs,
        )
    if runs and not machine.reaches_cuda:
        yield Mismatch(
            what="CUDA from Python",
            wanted="cuda-core or pycuda",
            found="neither",
            fix="pip install 'mmtrt[cuda]', or 'mmtrt[pycuda]' where a CUDA toolkit is installed.",
        )


def _memory(target: Target, machine: Machine) -> Iterator[Mismatch]:
    free = machine.board.memory_free_mib
    if target.workspace_mib is not None and free is not None and free < target.workspace_mib:
        yield Mismatch(
            what="free memory",
            wanted=f"{target.workspace_mib} MiB, the target's cap for the builder",
            found=f"{free} MiB",
            fix="Stop other programs and the desktop, or add swap: the builder may be killed.",
            stops=False,
        )


def room(folder: Path, needed: int, what: str) -> Iterator[Mismatch]:
    """Yield the mismatch where a disk has less than `needed` bytes left for `what`."""
    free = shutil.disk_usage(folder).free
    if not free >= needed:
        yield Mismatch(
            what="free disk",
            wanted=f"{_mib(needed)} MiB for {what}",
            found=f"{_mib(free)} MiB in {folder}",
            fix="Free some space, or deploy to another disk.",
        )


def _mib(count: int) -> int:
    return -(-count >> 20)
