"""Tensors as callers have them (numpy, PyTorch, DLPack; on the host or the GPU), looked at as what a run needs."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal

import numpy as np

from mmtrt.errors import InputError, MachineError
from mmtrt.runtimes.dlpack import CPU, CUDA, CUDA_HOST, CUDA_MANAGED, Taken, device_of, take
from mmtrt.tensors import Array, format_shape, tensor_bytes

__all__ = [
    "DeviceTensor",
    "Given",
    "Gpu",
    "OutputKind",
    "as_torch",
    "check_room",
    "import_torch",
    "is_torch",
    "look",
    "overlap",
    "room",
]

OutputKind = Literal["numpy", "torch", "dlpack"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTensor:
    """A tensor in the GPU's memory; `dtype` is numpy's name."""

    pointer: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all its elements."""
        return tensor_bytes(self.dtype, self.shape)


@dataclass(slots=True)
class Given:
    """What somebody handed in, by name; it is theirs again after `release`."""

    host: dict[str, Array] = field(default_factory=dict)
    device: dict[str, DeviceTensor] = field(default_factory=dict)
    releases: list[Callable[[], None]] = field(default_factory=list)

    def release(self) -> None:
        """Give all of it back; calling it twice is fine."""
        while self.releases:
            self.releases.pop()()

    def all(self) -> dict[str, Any]:
        """Everything, each with `dtype`, `shape` and `ndim`."""
        return {**self.host, **self.device}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """Where a run takes place: the device's number, its stream, and what copies a tensor with gaps to the host."""

    device: int
    stream: int
    fetch: Callable[[Taken], Array]


def is_torch(value: object) -> bool:
    """Tell whether a value is a tensor of PyTorch, without importing it."""
    return type(value).__module__.partition(".")[0] == "torch"


def look(given: Given, feeds: Mapping[str, Any], gpu: Gpu | None) -> None:
    """Sort inputs into what lies on the host and what lies on the GPU, and add them to `given`.

    Producers on the GPU let its stream wait for them. InputError names an input that is no tensor, lies elsewhere, or
    was freed.
    """
    for name, value in feeds.items():
        what = f"input {name!r}"
        if isinstance(value, np.ma.MaskedArray):
            raise InputError(f"{what} is a masked array, and an engine knows no mask", fix="Fill it: .filled(0).")
        if isinstance(value, np.ndarray | np.generic):
            given.host[name] = np.asarray(value)
            continue
        _check_tensor(value, what)
        there = _on_device(value, what, gpu)
        if there is not None and is_torch(value):
            value = value.contiguous()  # noqa: PLW2901 -- PyTorch closes gaps on the GPU
        taken = take(value, what, stream=None if there is None else there.stream)
        given.releases.append(taken.release)
        if there is not None and taken.contiguous and taken.nbytes:
            given.device[name] = DeviceTensor(pointer=taken.pointer, dtype=taken.dtype, shape=taken.shape)
            continue
        _check_numpy(taken, what)
        given.host[name] = taken.array() if there is None or not taken.nbytes else there.fetch(taken)


def room(given: Given, out: Mapping[str, Any], gpu: Gpu | None) -> None:
    """Sort memory that outputs are to fill; InputError where it can't be filled, or two outputs would share it."""
    for name, value in out.items():
        what = f"the memory for output {name!r}"
        if isinstance(value, np.ndarray):
            array = value
        else:
            _check_tensor(value, what)
            there = _on_device(value, what, gpu)
            taken = take(value, what, stream=None if there is None else there.stream)
            given.releases.append(taken.release)
            if there is not None:
                if taken.read_only or not taken.contiguous:
                    raise InputError(f"{what} can't be written, or has gaps", fix="Give memory that is contiguous.")
                given.device[name] = DeviceTensor(pointer=taken.pointer, dtype=taken.dtype, shape=taken.shape)
                continue
            _check_numpy(taken, what)
            array = taken.array()
        if not array.flags.writeable:
            raise InputError(f"{what} can't be written", fix="Give an array of its own, not a view that is read-only.")
        given.host[name] = array
    _check_apart(given)


def _check_apart(rooms: Given) -> None:
    """Raise InputError where memory of two outputs overlaps: one would be written over the other."""
    for (one, first), (other, second) in combinations(rooms.all().items(), 2):
        if overlap(first, second):
            raise InputError(
                f"the memory for outputs {one!r} and {other!r} is the same, or overlaps",
                fix="Give each output memory of its own.",
            )


def overlap(one: Array | DeviceTensor, other: Array | DeviceTensor) -> bool:
    """Tell whether two tensors have bytes in common."""
    if isinstance(one, DeviceTensor) and isinstance(other, DeviceTensor):
        return one.pointer < other.pointer + other.nbytes and other.pointer < one.pointer + one.nbytes
    return isinstance(one, np.ndarray) and isinstance(other, np.ndarray) and np.shares_memory(one, other)


def _check_tensor(value: object, what: str) -> None:
    if not hasattr(value, "__dlpack__"):
        raise InputError(
            f"{what} is {type(value).__name__}, and no tensor",
            fix="Hand in a numpy array, a PyTorch tensor, or what speaks DLPack.",
        )


def _on_device(value: Any, what: str, gpu: Gpu | None) -> Gpu | None:
    """Return the GPU where a tensor lies, None for the host; InputError where it lies somewhere else yet."""
    kind, index = device_of(value, what)
    if kind in {CPU, CUDA_HOST}:
        return None
    if kind not in {CUDA, CUDA_MANAGED}:
        raise InputError(f"{what} lies on a device of DLPack's kind {kind}", fix="Copy it to the CPU or to the GPU.")
    if gpu is None:
        raise InputError(f"{what} lies on GPU {index}, and is wanted on the CPU", fix="Copy it there: .cpu().")
    if index != gpu.device:
        raise InputError(
            f"{what} lies on GPU {index}, and the engine on GPU {gpu.device}",
            fix=f"Copy it there: .to('cuda:{gpu.device}').",
        )
    return gpu


def _check_numpy(taken: Taken, what: str) -> None:
    try:
        np.dtype(taken.dtype)
    except TypeError as error:
        raise InputError(
            f"{what} is {taken.dtype}, which numpy lacks", fix="Convert it to the type that the model takes."
        ) from error


def check_room(name: str, memory: Array | DeviceTensor, dtype: str, shape: tuple[int, ...]) -> None:
    """Raise InputError where memory for an output is of another type or shape than the output is."""
    if (str(memory.dtype), tuple(memory.shape)) != (dtype, shape):
        raise InputError(
            f"the memory for output {name!r} is {memory.dtype} {format_shape(memory.shape)}, "
            f"and {dtype} {format_shape(shape)} is needed"
        )


def as_torch(value: Any) -> Any:
    """Return a host array as a tensor of PyTorch over the same memory; what is none stays as it is."""
    return import_torch().from_numpy(value) if isinstance(value, np.ndarray) else value


def import_torch() -> Any:
    """Import PyTorch where somebody asked for its tensors; MachineError where there is none."""
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise MachineError(
            "PyTorch is not installed, and outputs='torch' was asked for", fix="pip install torch"
        ) from error
