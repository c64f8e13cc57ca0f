"""CUDA by the `cuda-bindings` package."""

from __future__ import annotations

import ctypes
import importlib
from typing import Any

import numpy as np

from mmtrt.errors import MachineError
from mmtrt.runtimes.cuda import HostBuffer

__all__ = ["BindingsCuda", "open_device"]

_NON_BLOCKING = 1
_OUT_OF_MEMORY = 2


def open_device() -> BindingsCuda:
    """Return the first device; ImportError where the package is missing."""
    return BindingsCuda(importlib.import_module("cuda.bindings.runtime"))


class BindingsCuda:
    """`mmtrt.runtimes.cuda.Cuda` over the CUDA runtime API."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._call("cudaSetDevice", 0)

    def _call(self, function: str, *args: Any) -> Any:
        """Call the runtime; it answers `(error, *values)`."""
        error, *values = getattr(self._runtime, function)(*args)
        code = int(error)
        if code:
            memory = code == _OUT_OF_MEMORY
            raise MachineError(
                f"{function} failed: {getattr(error, 'name', code)}",
                fix="The GPU's memory is full: use smaller shapes, or end what else runs on it." if memory else None,
            )
        return values[0] if values else None

    def alloc(self, nbytes: int) -> int:
        """Allocate device memory."""
        return int(self._call("cudaMalloc", nbytes))

    def free(self, pointer: int) -> None:
        """Free device memory."""
        self._call("cudaFree", pointer)

    def alloc_host(self, nbytes: int) -> HostBuffer:
        """Allocate page-locked memory."""
        pointer = int(self._call("cudaMallocHost", nbytes))
        return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(pointer))

    def free_host(self, buffer: HostBuffer) -> None:
        """Free page-locked memory."""
        self._call("cudaFreeHost", buffer.ctypes.data)

    def h2d(self, pointer: int, buffer: HostBuffer, stream: int) -> None:
        """Copy to the device."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", pointer, buffer.ctypes.data, buffer.nbytes, kind, stream)

    def d2h(self, buffer: HostBuffer, pointer: int, stream: int) -> None:
        """Copy from the device."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", buffer.ctypes.data, pointer, buffer.nbytes, kind, stream)

    def create_stream(self) -> int:
        """Create a stream."""
        return int(self._call("cudaStreamCreateWithFlags", _NON_BLOCKING))

    def sync(self, stream: int) -> None:
        """Wait for a stream."""
        self._call("cudaStreamSynchronize", stream)

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream."""
        self._call("cudaStreamDestroy", stream)

    def create_event(self) -> int:
        """Create an event."""
        return int(self._call("cudaEventCreate"))

    def record(self, event: int, stream: int) -> None:
        """Record an event."""
        self._call("cudaEventRecord", event, stream)

    def elapsed_ms(self, start: int, stop: int) -> float:
        """Read the time between two events."""
        return float(self._call("cudaEventElapsedTime", start, stop))

    def destroy_event(self, event: int) -> None:
        """Destroy an event."""
        self._call("cudaEventDestroy", event)

    def free_bytes(self) -> int:
        """Read the free memory."""
        return int(self._call("cudaMemGetInfo"))

    def close(self) -> None:
        """Nothing to give back: the runtime API shares the device's primary context."""
