"""CUDA by the `pycuda` package, which some boards have instead of cuda-core."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import count
from typing import Any

import numpy as np

from mmtrt.runtimes.cuda import HostBuffer
from mmtrt.runtimes.cuda.driver import GpuInfo
from mmtrt.runtimes.cuda.failures import CODES, error_name
from mmtrt.runtimes.cuda.library import DriverError, Library
from mmtrt.runtimes.cuda.owner import Owner

__all__ = ["PyCuda", "open_device"]

_NON_BLOCKING = 1


def open_device(device: int, info: GpuInfo) -> PyCuda:
    """Return a GPU, current in this thread; ImportError where the package is missing."""
    return PyCuda(importlib.import_module("pycuda.driver"), device, info)


class PyCuda(Owner):
    """`mmtrt.runtimes.cuda.Cuda` over pycuda's driver API.

    pycuda's streams, events and allocations are objects that free themselves; they are kept by their handles.
    pycuda aborts a process in which a thread ends while a context is on pycuda's own stack, and needs one there only
    to make and to free things: it is pushed for just that, and otherwise current by the driver's doing.
    """

    def __init__(self, driver: Any, device: int, info: GpuInfo, library: Library | None = None) -> None:
        super().__init__(device, info, library or Library())
        self._api = driver
        self._numbers = count(1)
        # pycuda's errors hold the driver's sentence, not the error's name.
        self._names = {self._library.error_text(code): self._library.error_name(code) for code in CODES}
        self._set_current = self._library.function("cuCtxSetCurrent")
        self._opener = threading.get_ident()
        with self._calls("opening the device"):
            driver.init()
            self._before = self._library.handle("cuCtxGetCurrent", None)
            gpu = driver.Device(device)
            attributes = driver.device_attribute
            needed = (attributes.INTEGRATED, attributes.CAN_MAP_HOST_MEMORY)
            self._shares = all(gpu.get_attribute(attribute) for attribute in needed)
            # TensorRT uses the primary context too.
            self._context = gpu.retain_primary_context()
        self._handle = int(self._context.handle)
        self.activate()

    def _reason(self, error: Exception) -> str:
        text = super()._reason(error)
        name = next((name for said, name in self._names.items() if said in text), "")
        return f"{text} ({name})" if name and not error_name(text) else text

    @property
    def shares_memory(self) -> bool:
        """Whether the device is integrated with the host's memory."""
        return self._shares

    def activate(self) -> None:
        """Make the primary context current; also where another library put its own there."""
        code = self._set_current(self._handle)
        if code:
            raise self._failed("activate", DriverError("cuCtxSetCurrent", self._library.error_name(code)))

    def _scope(self) -> AbstractContextManager[None]:
        return self._pushed()

    @contextlib.contextmanager
    def _pushed(self) -> Iterator[None]:
        """Have the context on pycuda's stack meanwhile."""
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()
            # Where somebody else has a context on that stack, pycuda made theirs current.
            self.activate()

    # ------------------------------------------------------------------------------------------- memory

    def alloc(self, nbytes: int) -> int:
        """Allocate device memory."""
        with self._calls("alloc"), self._pushed():
            try:
                allocation = self._api.mem_alloc(nbytes)
            except self._api.MemoryError as error:
                raise self._short_of_memory("mem_alloc", nbytes, self._reason(error)) from error
        self._memory[int(allocation)] = allocation
        return int(allocation)

    def free(self, pointer: int) -> None:
        """Free device memory."""
        self._give_back("free", self._memory, pointer, lambda thing: thing.free())

    def alloc_host(self, nbytes: int, *, mapped: bool = False) -> HostBuffer:
        """Allocate page-locked memory."""
        flags = self._api.host_alloc_flags
        with self._calls("alloc_host"), self._pushed():
            wanted = flags.PORTABLE | (flags.DEVICEMAP if mapped else 0)
            try:
                buffer: HostBuffer = self._api.pagelocked_empty(nbytes, np.uint8, mem_flags=wanted)
            except self._api.MemoryError as error:
                raise self._short_of_host_memory("pagelocked_empty", nbytes, self._reason(error)) from error
        self._host[buffer.ctypes.data] = buffer.base
        return buffer

    def device_pointer(self, buffer: HostBuffer) -> int:
        """Ask for the device's address of mapped memory."""
        with self._calls("device_pointer"):
            return int(self._host[buffer.ctypes.data].get_device_pointer())

    def free_host(self, buffer: HostBuffer) -> None:
        """Free page-locked memory."""
        self._free_host_at(buffer.ctypes.data)

    def _free_host_at(self, address: int) -> None:
        self._give_back("free_host", self._host, address, lambda thing: thing.free())

    def h2d(self, pointer: int, buffer: HostBuffer, stream: int) -> None:
        """Copy to the device."""
        try:
            self._api.memcpy_htod_async(pointer, buffer, self._streams[stream])
        except Exception as error:
            raise self._failed("h2d", error) from error

    def d2h(self, buffer: HostBuffer, pointer: int, stream: int) -> None:
        """Copy from the device."""
        try:
            self._api.memcpy_dtoh_async(buffer, pointer, self._streams[stream])
        except Exception as error:
            raise self._failed("d2h", error) from error

    def d2d(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Copy within the device."""
        try:
            self._api.memcpy_dtod_async(target, source, nbytes, self._streams[stream])
        except Exception as error:
            raise self._failed("d2d", error) from error

    # ------------------------------------------------------------------------------------------- streams and events

    def create_stream(self) -> int:
        """Create a stream that does not wait for the default one."""
        with self._calls("create_stream"), self._pushed():
            stream = self._api.Stream(_NON_BLOCKING)
            handle = int(stream.handle)
        self._streams[handle] = stream
        return handle

    def sync(self, stream: int) -> None:
        """Wait for a stream."""
        try:
            self._streams[stream].synchronize()
        except Exception as error:
            raise self._failed("sync", error) from error

    def destroy_stream(self, stream: int) -> None:
        """Drop the stream, which destroys it."""
        self._leave_capture(stream)
        self._give_back("destroy_stream", self._streams, stream, lambda _: None)

    def create_event(self, *, timing: bool = True) -> int:
        """Create an event; pycuda doesn't tell its handle, so it gets a number."""
        flags = self._api.event_flags
        with self._calls("create_event"), self._pushed():
            event = self._api.Event(flags.DEFAULT if timing else flags.DISABLE_TIMING)
        number = next(self._numbers)
        self._events[number] = event
        return number

    def record(self, event: int, stream: int) -> None:
        """Record an event."""
        try:
            self._events[event].record(self._streams[stream])
        except Exception as error:
            raise self._failed("record", error) from error

    def wait(self, stream: int, event: int) -> None:
        """Let a stream wait for an event."""
        try:
            self._streams[stream].wait_for_event(self._events[event])
        except Exception as error:
            raise self._failed("wait", error) from error

    def sync_event(self, event: int) -> None:
        """Wait for an event."""
        try:
            self._events[event].synchronize()
        except Exception as error:
            raise self._failed("sync_event", error) from error

    def passed(self, event: int) -> bool:
        """Ask whether an event has passed."""
        try:
            return bool(self._events[event].query())
        except Exception as error:
            raise self._failed("passed", error) from error

    def elapsed_ms(self, start: int, stop: int) -> float:
        """Read the time between two events."""
        try:
            return float(self._events[start].time_till(self._events[stop]))
        except Exception as error:
            raise self._failed("elapsed_ms", error) from error

    def destroy_event(self, event: int) -> None:
        """Drop the event, which destroys it."""
        self._give_back("destroy_event", self._events, event, lambda _: None)

    # ------------------------------------------------------------------------------------------- the device

    def free_bytes(self) -> int:
        """Read the free memory."""
        with self._calls("free_bytes"):
            return int(self._api.mem_get_info()[0])

    def total_bytes(self) -> int:
        """Read the memory's size."""
        with self._calls("total_bytes"):
            return int(self._api.mem_get_info()[1])

    def _release(self) -> None:
        self._context = None
        if threading.get_ident() == self._opener:
            self._set_current(self._before)
