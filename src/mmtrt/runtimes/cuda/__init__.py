"""Device memory, pinned host memory, streams and events: the little of CUDA that running an engine takes.

`Cuda` is the contract; `open_cuda` gives the implementation that this machine has. Pointers, streams and
events are plain integers, as TensorRT takes them.
"""

from __future__ import annotations

import importlib
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from mmtrt.errors import MachineError
from mmtrt.runtimes.cuda.driver import GpuInfo, gpu, gpu_trouble

__all__ = ["Cuda", "GpuInfo", "HostBuffer", "gpu", "gpu_trouble", "no_gpu", "open_cuda"]

HostBuffer = npt.NDArray[np.uint8]
"""Bytes of page-locked host memory, `(nbytes,)`."""

_IMPLEMENTATIONS = ("bindings", "pycuda")


@runtime_checkable
class Cuda(Protocol):
    """One device. Whatever fails raises MachineError that names the call; sizes are bytes, times ms."""

    def alloc(self, nbytes: int) -> int:
        """Return a pointer to device memory; MachineError where there is too little of it."""
        ...

    def free(self, pointer: int) -> None:
        """Give device memory back."""
        ...

    def alloc_host(self, nbytes: int) -> HostBuffer:
        """Return page-locked host memory, which copies need to be asynchronous."""
        ...

    def free_host(self, buffer: HostBuffer) -> None:
        """Give page-locked memory back; no array over it may be used any more."""
        ...

    def h2d(self, pointer: int, buffer: HostBuffer, stream: int) -> None:
        """Start to copy the whole of `buffer` to the device."""
        ...

    def d2h(self, buffer: HostBuffer, pointer: int, stream: int) -> None:
        """Start to fill the whole of `buffer` from the device."""
        ...

    def create_stream(self) -> int:
        """Return a stream that does not wait for the default one."""
        ...

    def sync(self, stream: int) -> None:
        """Wait until all work of a stream is done; errors of that work are raised here."""
        ...

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""
        ...

    def create_event(self) -> int:
        """Return an event that keeps the time."""
        ...

    def record(self, event: int, stream: int) -> None:
        """Put an event after the work that the stream has so far."""
        ...

    def elapsed_ms(self, start: int, stop: int) -> float:
        """Return the device's time between two events that have passed."""
        ...

    def destroy_event(self, event: int) -> None:
        """Give an event back."""
        ...

    def free_bytes(self) -> int:
        """Return how much device memory is free."""
        ...

    def close(self) -> None:
        """Give the device back; what was allocated must have been freed."""
        ...


def no_gpu(what: str) -> MachineError:
    """Return the error for `what` that needs a GPU, with the reason why there is none."""
    return MachineError(
        f"{what} needs an NVIDIA GPU, and this machine has none: {gpu_trouble()}",
        fix="Run it on the machine with the GPU; `mmtrt doctor` tells what each machine can do.",
    )


def open_cuda() -> Cuda:
    """Return CUDA through cuda-bindings, else through pycuda.

    MachineError where there is no GPU, no working driver, or neither package.
    """
    if gpu() is None:
        raise no_gpu("running an engine")
    reasons = []
    for name in _IMPLEMENTATIONS:
        module = importlib.import_module(f"mmtrt.runtimes.cuda.{name}")
        try:
            cuda: Cuda = module.open_device()
        except ImportError as error:
            reasons.append(f"{name}: {error}")
        else:
            return cuda
    raise MachineError(
        f"no package that reaches CUDA from Python ({'; '.join(reasons)})",
        fix="pip install 'mmtrt[cuda]', or 'mmtrt[pycuda]' where a CUDA toolkit is installed.",
    )
