"""Which TensorRT is here, which one to build with, and on which GPU."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from mmtrt.errors import MachineError, UsageError
from mmtrt.runtimes.cuda import GpuInfo, gpu, gpu_trouble
from mmtrt.runtimes.tensorrt_api import FLAVOURS, LABELS, FlavourName, import_flavour, install_line

__all__ = ["Flavour", "FlavourName", "GpuInfo", "choose", "gpu", "gpu_trouble", "installed", "probe"]

_NEEDS_GPU: dict[FlavourName, bool] = {"tensorrt": True, "tensorrt-rtx": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavour:
    """One installed TensorRT."""

    name: FlavourName
    version: str
    needs_gpu_to_build: bool

    def __str__(self) -> str:
        return f"{LABELS[self.name]} {self.version}"


def probe(name: FlavourName) -> Flavour:
    """Import a flavour and say what it is; MachineError where it is missing or broken."""
    module = import_flavour(name)
    return Flavour(name=name, version=str(module.__version__), needs_gpu_to_build=_NEEDS_GPU[name])


def installed() -> list[Flavour]:
    """Return the flavours that load here; the doctor tells why others don't."""
    return [flavour for flavour in map(_loadable, FLAVOURS) if flavour]


def _loadable(name: FlavourName) -> Flavour | None:
    try:
        return probe(name)
    except MachineError:
        return None


def choose(wanted: str = "auto") -> Flavour:
    """Return the flavour to build with.

    `auto` is TensorRT where it and a GPU are there, else TensorRT-RTX, which builds on any Linux machine.
    UsageError for an unknown name; MachineError where this machine can't, with what to install.
    """
    if wanted == "auto":
        return _automatic()
    name = next((flavour for flavour in FLAVOURS if flavour == wanted), None)
    if name is None:
        near = get_close_matches(wanted, (*FLAVOURS, "auto"), n=1, cutoff=0.4)
        fix = f"Did you mean {near[0]!r}?" if near else "Choose auto, tensorrt or tensorrt-rtx."
        raise UsageError(f"there is no flavor {wanted!r}", fix=fix)
    flavour = probe(name)
    if flavour.needs_gpu_to_build and gpu() is None:
        raise MachineError(
            f"{flavour} needs a GPU to build, and there is none: {gpu_trouble()}",
            fix=f"Build on the GPU's machine, or with TensorRT-RTX anywhere: {install_line('tensorrt-rtx')}",
        )
    return flavour


def _automatic() -> Flavour:
    here = {flavour.name: flavour for flavour in installed()}
    if "tensorrt" in here and gpu() is not None:
        return here["tensorrt"]
    if "tensorrt-rtx" in here:
        return here["tensorrt-rtx"]
    if "tensorrt" in here:
        return choose("tensorrt")
    raise MachineError(
        "no TensorRT is installed",
        fix=f"Without a GPU: {install_line('tensorrt-rtx')}. With one: {install_line('tensorrt')}.",
    )
