"""CUDA by the `cuda-core` package, and by `cuda.bindings.driver`, which it depends on, where it has no fitting name."""

from __future__ import annotations

import importlib
import re
from typing import Any

import numpy as np

from mmtrt.errors import MachineError
from mmtrt.runtimes.cuda import HostBuffer
from mmtrt.runtimes.cuda.driver import GpuInfo
from mmtrt.runtimes.cuda.library import Library
from mmtrt.runtimes.cuda.owner import Owner

__all__ = ["CoreCuda", "open_device"]

_OLDEST = (1, 0)
_PORTABLE, _MAPPED = 1, 2


def open_device(device: int, info: GpuInfo) -> CoreCuda:
    """Return a GPU, current in this thread; ImportError where the package is missing or too old."""
    core = importlib.import_module("cuda.core")
    driver = importlib.import_module("cuda.bindings.driver")
    if tuple(int(part) for part in core.__version__.split(".")[:2]) < _OLDEST:
        raise ImportError(f"cuda-core {core.__version__} is older than {'.'.join(map(str, _OLDEST))}")
    return CoreCuda(core, driver, device, info)


class CoreCuda(Owner):
    """`mmtrt.runtimes.cuda.Cuda` over cuda-core's streams and events, and the driver's memory.

    What is called for each inference (`record`, `sync`, `passed`, `wait`, `launch`, `h2d`) goes to the package
    without another call between.
    """

    def __init__(self, core: Any, driver: Any, device: int, info: GpuInfo, library: Library | None = None) -> None:
        self._api = driver
        try:
            self._gpu = core.Device(device)
            self._gpu.set_current()
            shares = bool(self._gpu.properties.integrated and self._gpu.properties.can_map_host_memory)
        except Exception as error:
            raise _not_opened(device, error, self._api, info) from error
        super().__init__(device, info, library or Library())
        self._shares = shares
        self._upload = driver.cuMemcpyHtoDAsync
        self._download = driver.cuMemcpyDtoHAsync

    @property
    def shares_memory(self) -> bool:
        """Whether the device is integrated with the host's memory."""
        return self._shares

    def activate(self) -> None:
        """Make the primary context current; also where another library put its own there."""
        try:
            self._gpu.set_current()
        except Exception as error:
            raise self._failed("activate", error) from error

    # ------------------------------------------------------------------------------------------- memory

    def _drive(self, function: str, *args: Any) -> Any:
        """Call the driver; it answers `(error, *values)`."""
        error, *values = getattr(self._api, function)(*args)
        if error:
            raise self._failed(function, _CudaError(error))
        return values

    def alloc(self, nbytes: int) -> int:
        """Allocate device memory."""
        with self._calls("alloc"):
            error, pointer = self._api.cuMemAlloc(nbytes)
            if error:
                raise self._short_of_memory("cuMemAlloc", nbytes, _name(error))
        self._memory[int(pointer)] = nbytes
        return int(pointer)

    def free(self, pointer: int) -> None:
        """Free device memory."""
        self._give_back("free", self._memory, pointer, lambda _: self._drive("cuMemFree", pointer))

    def alloc_host(self, nbytes: int, *, mapped: bool = False) -> HostBuffer:
        """Allocate page-locked memory."""
        with self._calls("alloc_host"):
            error, address = self._api.cuMemHostAlloc(nbytes, _PORTABLE | (_MAPPED if mapped else 0))
            if error:
                raise self._short_of_host_memory("cuMemHostAlloc", nbytes, _name(error))
        self._host[int(address)] = nbytes
        return np.asarray(_Block(int(address), nbytes))

    def device_pointer(self, buffer: HostBuffer) -> int:
        """Ask for the device's address of mapped memory."""
        with self._calls("device_pointer"):
            self._host[buffer.ctypes.data]
            return int(self._drive("cuMemHostGetDevicePointer", buffer.ctypes.data, 0)[0])

    def free_host(self, buffer: HostBuffer) -> None:
        """Free page-locked memory."""
        self._free_host_at(buffer.ctypes.data)

    def _free_host_at(self, address: int) -> None:
        self._give_back("free_host", self._host, address, lambda _: self._drive("cuMemFreeHost", address))

    def h2d(self, pointer: int, buffer: HostBuffer, stream: int) -> None:
        """Copy to the device."""
        if stream not in self._streams:
            raise self._failed("h2d", KeyError(stream))
        # The array itself is half as dear as asking numpy for its address.
        error = self._upload(pointer, buffer, buffer.nbytes, stream)[0]
        if error:
            raise self._failed("cuMemcpyHtoDAsync", _CudaError(error))

    def d2h(self, buffer: HostBuffer, pointer: int, stream: int) -> None:
        """Copy from the device."""
        if stream not in self._streams:
            raise self._failed("d2h", KeyError(stream))
        error = self._download(buffer, pointer, buffer.nbytes, stream)[0]
        if error:
            raise self._failed("cuMemcpyDtoHAsync", _CudaError(error))

    def d2d(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Copy within the device."""
        if stream not in self._streams:
            raise self._failed("d2d", KeyError(stream))
        self._drive("cuMemcpyDtoDAsync", target, source, nbytes, stream)

    # ------------------------------------------------------------------------------------------- streams and events

    def create_stream(self) -> int:
        """Create a stream that does not wait for the default one."""
        with self._calls("create_stream"):
            stream = self._gpu.create_stream()
            handle = int(stream.handle)
        self._streams[handle] = stream
        return handle

    def sync(self, stream: int) -> None:
        """Wait for a stream."""
        try:
            self._streams[stream].sync()
        except Exception as error:
            raise self._failed("sync", error) from error

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream."""
        self._leave_capture(stream)
        self._give_back("destroy_stream", self._streams, stream, lambda thing: thing.close())

    def create_event(self, *, timing: bool = True) -> int:
        """Create an event."""
        with self._calls("create_event"):
            event = self._gpu.create_event({"timing_enabled": timing})
            handle = int(event.handle)
        self._events[handle] = event
        return handle

    def record(self, event: int, stream: int) -> None:
        """Record an event."""
        try:
            self._streams[stream].record(self._events[event])
        except Exception as error:
            raise self._failed("record", error) from error

    def wait(self, stream: int, event: int) -> None:
        """Let a stream wait for an event."""
        try:
            self._streams[stream].wait(self._events[event])
        except Exception as error:
            raise self._failed("wait", error) from error

    def sync_event(self, event: int) -> None:
        """Wait for an event."""
        try:
            self._events[event].sync()
        except Exception as error:
            raise self._failed("sync_event", error) from error

    def passed(self, event: int) -> bool:
        """Ask whether an event has passed."""
        try:
            return bool(self._events[event].is_done)
        except Exception as error:
            raise self._failed("passed", error) from error

    def elapsed_ms(self, start: int, stop: int) -> float:
        """Read the time between two events."""
        try:
            return float(self._events[stop] - self._events[start])
        except Exception as error:
            raise self._failed("elapsed_ms", error) from error

    def destroy_event(self, event: int) -> None:
        """Destroy an event."""
        self._give_back("destroy_event", self._events, event, lambda thing: thing.close())

    # ------------------------------------------------------------------------------------------- the device

    def free_bytes(self) -> int:
        """Read the free memory."""
        with self._calls("free_bytes"):
            return int(self._drive("cuMemGetInfo")[0])

    def total_bytes(self) -> int:
        """Read the memory's size."""
        with self._calls("total_bytes"):
            return int(self._drive("cuMemGetInfo")[1])

    def _release(self) -> None:
        # The primary context stays: TensorRT and PyTorch use it too.
        pass


class _CudaError(Exception):
    """An error that the driver returned: its text is the name."""

    def __init__(self, code: Any) -> None:
        super().__init__(_name(code))


class _Block:
    """Memory at an address, which numpy makes an array of; it does not own it."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.__array_interface__ = {"version": 3, "data": (address, False), "shape": (nbytes,), "typestr": "|u1"}


def _name(code: Any) -> str:
    return str(getattr(code, "name", code))


def _not_opened(device: int, error: Exception, driver: Any, info: GpuInfo) -> MachineError:
    return MachineError(f"GPU {device} ({info.name}) can't be opened by cuda-core: {error}", fix=_mend(driver, info))


def _mend(driver: Any, info: GpuInfo) -> str | None:
    """Say what to install where the package was made for a newer CUDA than the driver's."""
    made_for = getattr(driver, "CUDA_VERSION", 0) // 1000
    found = re.search(r"CUDA (\d+)", info.driver)
    if found is None or int(found[1]) >= made_for:
        return None
    return (
        f"cuda-bindings is for CUDA {made_for}, and the driver ({info.driver}) for less: "
        f"pip install 'cuda-bindings=={found[1]}.*'."
    )
