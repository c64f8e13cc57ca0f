"""Device memory, pinned host memory, streams, events and graphs: the little of CUDA that running an engine takes.

`Cuda` is the contract; `open_cuda` gives the implementation that this machine has. Pointers, streams,
events and graphs are plain integers, as TensorRT takes them.
"""

from __future__ import annotations

import importlib
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from mmtrt.errors import MachineError
from mmtrt.runtimes.cuda.driver import GpuInfo, gpu, gpu_trouble, gpus

__all__ = ["Cuda", "GpuInfo", "HostBuffer", "gpu", "gpu_trouble", "gpus", "no_gpu", "open_cuda"]

HostBuffer = npt.NDArray[np.uint8]
"""Bytes of page-locked host memory, `(nbytes,)`."""

_IMPLEMENTATIONS = ("core", "pycuda")


@runtime_checkable
class Cuda(Protocol):
    """One device. Whatever fails raises MachineError that names the call; sizes are bytes, times ms.

    Any thread may call, once it has called `activate`; one stream is used by one thread at a time. After an error
    that loses the context (an illegal address, say) giving back is done in silence, and all else fails.
    """

    @property
    def device(self) -> int:
        """The device's number, as CUDA counts it in this process."""
        ...

    @property
    def info(self) -> GpuInfo:
        """Name, compute capability and memory of the device."""
        ...

    @property
    def shares_memory(self) -> bool:
        """Tell whether host and device have one memory, as on Jetson: then a mapped buffer needs no copy."""
        ...

    def activate(self) -> None:
        """Make the device current in the calling thread; cheap where it already is."""
        ...

    def alloc(self, nbytes: int) -> int:
        """Return a pointer to device memory; MachineError where there is too little of it."""
        ...

    def free(self, pointer: int) -> None:
        """Give device memory back."""
        ...

    def alloc_host(self, nbytes: int, *, mapped: bool = False) -> HostBuffer:
        """Return page-locked host memory, which copies need to be asynchronous; `mapped` into the device too.

        Copies take the whole of it or a slice.
        """
        ...

    def device_pointer(self, buffer: HostBuffer) -> int:
        """Return where the device sees a mapped host buffer."""
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

    def d2d(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Start to copy within the device."""
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

    def create_event(self, *, timing: bool = True) -> int:
        """Return an event, which keeps the time only where that is asked for."""
        ...

    def record(self, event: int, stream: int) -> None:
        """Put an event after the work that the stream has so far."""
        ...

    def wait(self, stream: int, event: int) -> None:
        """Let a stream's later work wait for an event; the host does not wait."""
        ...

    def sync_event(self, event: int) -> None:
        """Wait until an event has passed."""
        ...

    def passed(self, event: int) -> bool:
        """Tell whether an event has passed, without waiting."""
        ...

    def elapsed_ms(self, start: int, stop: int) -> float:
        """Return the device's time between two events that have passed."""
        ...

    def destroy_event(self, event: int) -> None:
        """Give an event back."""
        ...

    def begin_capture(self, stream: int) -> None:
        """Record a stream's work from here on instead of doing it; what other threads do is not held up.

        Until `end_capture` this thread allocates and frees nothing, and waits for nothing that is recorded.
        """
        ...

    def end_capture(self, stream: int) -> int:
        """Return the graph of what was recorded, ready to launch; after a failed call the stream is usable again."""
        ...

    def launch(self, graph: int, stream: int) -> None:
        """Start the whole of a graph with one call."""
        ...

    def destroy_graph(self, graph: int) -> None:
        """Give a graph back; it must have ended."""
        ...

    def free_bytes(self) -> int:
        """Return how much device memory is free."""
        ...

    def total_bytes(self) -> int:
        """Return how much memory the device has."""
        ...

    def close(self) -> None:
        """Give the device back; a second call does nothing. No other thread may be calling.

        What was forgotten is freed too, and a ResourceWarning tells of it.
        """
        ...


def no_gpu(what: str) -> MachineError:
    """Return the error for `what` that needs a GPU, with the reason why there is none."""
    return MachineError(
        f"{what} needs an NVIDIA GPU, and this machine has none: {gpu_trouble()}",
        fix="Run it on the machine with the GPU; `mmtrt doctor` tells what each machine can do.",
    )


def open_cuda(device: int = 0) -> Cuda:
    """Return a GPU through cuda-core, else through pycuda, current in this thread.

    MachineError where there is no GPU, none of that number, no working driver, or neither package.
    """
    if gpu() is None:
        raise no_gpu("running an engine")
    found = gpus()
    if not 0 <= device < len(found):
        listed = ", ".join(f"{index}: {one.name}" for index, one in enumerate(found))
        raise MachineError(
            f"there is no GPU {device}; CUDA counts {listed}",
            fix="Choose one of these; CUDA_VISIBLE_DEVICES hides GPUs, and numbers those that are left from 0.",
        )
    reasons = []
    for name in _IMPLEMENTATIONS:
        module = importlib.import_module(f"mmtrt.runtimes.cuda.{name}")
        try:
            cuda: Cuda = module.open_device(device, found[device])
        except ImportError as error:
            reasons.append(f"{name}: {error}")
        else:
            return cuda
    raise MachineError(
        f"no package that reaches CUDA from Python ({'; '.join(reasons)})",
        fix="pip install 'mmtrt[cuda]', or 'mmtrt[pycuda]' where a CUDA toolkit is installed.",
    )
