"""This machine against a bundle's target: what `mmtrt.engine.preflight` finds, and what running asks for beside it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmtrt.engine.board import Board, board
from mmtrt.engine.flavours import Flavour, GpuInfo, gpu, gpu_trouble, installed
from mmtrt.engine.preflight import preflight
from mmtrt.engine.targets import Target
from mmtrt.isolation import run_isolated
from mmtrt.machine import machine
from mmtrt.results import Mismatch
from mmtrt.runtimes.tensorrt_api import FLAVOURS

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


def mismatches(
    target: Target, machine: Machine, *, runs: bool, folder: Path, needed_bytes: int
) -> tuple[Mismatch, ...]:
    """Return what is otherwise than a target asks, what stops a deploy first.

    `runs` tells whether the engine is to run here, or is built only; `needed_bytes` is what it takes in `folder`.
    """
    found = preflight(
        target,
        board=machine.board,
        gpu=machine.gpu,
        flavours=machine.flavours,
        disk_free_mib=shutil.disk_usage(folder).free / 2**20,
        needed_mib=needed_bytes / 2**20,
    )
    # Without a GPU nothing runs, whatever can be built.
    told = [replace(one, stops=True) if runs and one.what == "GPU" else one for one in found]
    return tuple(sorted((*told, *_beside(target, machine, runs=runs)), key=lambda one: not one.stops))


def _beside(target: Target, machine: Machine, *, runs: bool) -> Iterator[Mismatch]:
    if machine.gpu is None:
        return
    own, wanted = f"SM{machine.gpu.compute_capability.replace('.', '')}", target.compute_capability
    if wanted is not None and wanted not in {"CURRENT", own}:
        yield Mismatch(
            what="compute capability",
            wanted=wanted,
            found=f"{own} ({machine.gpu.name})",
            fix="Choose the target of this GPU with --target, or make the bundle with one.",
            stops=runs,
        )
    if runs and not machine.reaches_cuda:
        yield Mismatch(
            what="CUDA from Python",
            wanted="cuda-core or pycuda",
            found="neither",
            fix="pip install 'mmtrt[cuda]', or 'mmtrt[pycuda]' where a CUDA toolkit is installed.",
        )
    free = machine.board.memory_free_mib if machine.board.is_jetson else machine.gpu.memory_mib
    if target.workspace_mib is not None and free is not None and free < target.workspace_mib:
        yield Mismatch(
            what="memory for the builder",
            wanted=f"{target.workspace_mib} MiB, the target's cap",
            found=f"{free} MiB",
            fix="End other programs, or choose a target with a lower workspace_mib.",
            stops=False,
        )


def room(folder: Path, needed_bytes: int, what: str) -> tuple[Mismatch, ...]:
    """Return the mismatch where a disk has less than that left for `what`, nothing where it has enough."""
    free = shutil.disk_usage(folder).free
    if free >= needed_bytes:
        return ()
    told = Mismatch(
        what="free disk space",
        wanted=f"{-(-needed_bytes >> 20)} MiB for {what}",
        found=f"{free >> 20} MiB in {folder}",
        fix="Remove what is not needed, or deploy to a folder on another disk.",
    )
    return (told,)
