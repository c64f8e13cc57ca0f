"""CUDA by the `pycuda` package, which some boards have instead of cuda-bindings."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from mmtrt.errors import MachineError
from mmtrt.runtimes.cuda import HostBuffer

__all__ = ["PyCuda", "open_device"]


def open_device() -> PyCuda:
    """Return the first device; ImportError where the package is missing."""
    return PyCuda(importlib.import_module("pycuda.driver"))


class PyCuda:
    """`mmtrt.runtimes.cuda.Cuda` over pycuda's driver API.

    pycuda's streams, events and allocations are objects that free themselves; they are kept here by their
    handles, so that what leaves this class are integers.
    """

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._kept: dict[int, Any] = {}
        with self._errors("opening the device"):
            driver.init()
            # TensorRT uses the primary context too.
            self._context = driver.Device(0).retain_primary_context()
            self._context.push()

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._driver.Error as error:
            raise MachineError(f"CUDA failed at {what}: {error}") from error

    def _keep(self, handle: int, thing: Any) -> int:
        self._kept[handle] = thing
        return handle

    def alloc(self, nbytes: int) -> int:
        """Allocate device memory."""
        with self._errors("allocating device memory"):
            allocation = self._driver.mem_alloc(nbytes)
        return self._keep(int(allocation), allocation)

    def free(self, pointer: int) -> None:
        """Free device memory."""
        with self._errors("freeing device memory"):
            self._kept.pop(pointer).free()

    def alloc_host(self, nbytes: int) -> HostBuffer:
        """Allocate page-locked memory."""
        with self._errors("allocating pinned memory"):
            buffer: HostBuffer = self._driver.pagelocked_empty(nbytes, np.uint8)
        return buffer

    def free_host(self, buffer: HostBuffer) -> None:
        """Free page-locked memory."""
        with self._errors("freeing pinned memory"):
            buffer.base.free()  # type: ignore[union-attr]

    def h2d(self, pointer: int, buffer: HostBuffer, stream: int) -> None:
        """Copy to the device."""
        with self._errors("copying to the device"):
            self._driver.memcpy_htod_async(pointer, buffer, self._kept[stream])

    def d2h(self, buffer: HostBuffer, pointer: int, stream: int) -> None:
        """Copy from the device."""
        with self._errors("copying from the device"):
            self._driver.memcpy_dtoh_async(buffer, pointer, self._kept[stream])

    def create_stream(self) -> int:
        """Create a stream."""
        with self._errors("creating a stream"):
            stream = self._driver.Stream()
        return self._keep(int(stream.handle), stream)

    def sync(self, stream: int) -> None:
        """Wait for a stream."""
        with self._errors("running"):
            self._kept[stream].synchronize()

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream."""
        del self._kept[stream]

    def create_event(self) -> int:
        """Create an event."""
        with self._errors("creating an event"):
            event = self._driver.Event()
        return self._keep(id(event), event)

    def record(self, event: int, stream: int) -> None:
        """Record an event."""
        with self._errors("recording an event"):
            self._kept[event].record(self._kept[stream])

    def elapsed_ms(self, start: int, stop: int) -> float:
        """Read the time between two events."""
        with self._errors("reading the time"):
            return float(self._kept[start].time_till(self._kept[stop]))

    def destroy_event(self, event: int) -> None:
        """Destroy an event."""
        del self._kept[event]

    def free_bytes(self) -> int:
        """Read the free memory."""
        with self._errors("reading the free memory"):
            return int(self._driver.mem_get_info()[0])

    def close(self) -> None:
        """Pop the primary context."""
        self._kept.clear()
        self._context.pop()
