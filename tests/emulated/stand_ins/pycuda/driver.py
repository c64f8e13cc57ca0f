"""Stands in for `pycuda.driver`: the names that an engine's runtime takes, with pycuda's own rules.

Streams, events and memory belong to the context that was current in pycuda's own stack when they were made, and free
themselves in it. Where it is not current they push it if the thread is the one that retained it; in any other thread
they only warn, and the thing is lost. A thread that ends with contexts on its stack ends the process.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pycuda._calls import (
    Error,
    LaunchError,
    LogicError,
    MemoryError,  # noqa: A004
    RuntimeError,  # noqa: A004
    _call,
    _clean_up,
    _driver,
    _failed,
)

_ERRORS = (Error, LaunchError, LogicError, MemoryError, RuntimeError)

_INVALID_CONTEXT, _INVALID_HANDLE, _NOT_READY = 201, 400, 600


def init(flags: int = 0) -> None:
    _call("cuInit", flags)


def mem_get_info() -> tuple[int, int]:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    return free.value, total.value


class device_attribute:  # noqa: N801 -- pycuda's own name
    INTEGRATED = 18
    CAN_MAP_HOST_MEMORY = 19
    COMPUTE_CAPABILITY_MAJOR = 75
    COMPUTE_CAPABILITY_MINOR = 76


class host_alloc_flags:  # noqa: N801 -- pycuda's own name
    PORTABLE = 1
    DEVICEMAP = 2
    WRITECOMBINED = 4


class event_flags:  # noqa: N801 -- pycuda's own name
    DEFAULT = 0
    BLOCKING_SYNC = 1
    DISABLE_TIMING = 2
    INTERPROCESS = 4


def _as_compiled(kind: type) -> type:
    """Let no error's traceback hold what a method was called on: pycuda's own methods have no frames."""

    def wrapped(method: Any) -> Any:
        @functools.wraps(method)
        def call(*args: Any, **named: Any) -> Any:
            try:
                return method(*args, **named)
            except Error as error:
                failed = error.with_traceback(None)
            del args, named
            raise failed

        return call

    for name, method in list(vars(kind).items()):
        if callable(method) and not name.startswith("_"):
            setattr(kind, name, wrapped(method))
    return kind


# ------------------------------------------------------------------------------------------- contexts


# pycuda's own stack of contexts in each thread, by the thread's number; only its top is on the driver's.
_stacks: dict[int, list[Context]] = {}


def _stack() -> list[Context]:
    number = threading.get_native_id()
    if number not in _stacks:
        _abort_for_those_that_ended(lambda other: not Path(f"/proc/self/task/{other}").exists())
        _stacks[number] = []
    return _stacks[number]


def _abort_for_those_that_ended(ended: Callable[[int], bool]) -> None:
    """End the process as pycuda does when a thread's stack goes that holds a context; here it is told a bit later."""
    for number in [number for number in list(_stacks) if ended(number)]:
        if _stacks.pop(number, None):
            sys.stderr.write("PyCUDA ERROR: The context stack was not empty upon module cleanup.\n")
            sys.stderr.flush()
            os.abort()


atexit.register(_abort_for_those_that_ended, lambda _: True)


class Context:
    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._thread = threading.get_ident()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Context) and self._handle == other._handle

    def __hash__(self) -> int:
        return self._handle ^ id(self)

    @property
    def handle(self) -> int:
        return self._handle

    def push(self) -> None:
        _float_top()
        _call("cuCtxPushCurrent_v2", self._handle)
        _stack().append(self)

    @staticmethod
    def pop() -> None:
        contexts = _stack()
        _float_top()
        if not contexts:
            raise _failed("context::pop", _INVALID_CONTEXT, "cannot pop non-current context")
        contexts.pop()
        if contexts:
            _call("cuCtxPushCurrent_v2", contexts[-1]._handle)

    @staticmethod
    def get_current() -> Context | None:
        contexts = _stack()
        return contexts[-1] if contexts else None

    @staticmethod
    def synchronize() -> None:
        _call("cuCtxSynchronize")

    def __del__(self) -> None:
        if threading.get_ident() == self._thread:
            _clean_up("cuDevicePrimaryCtxRelease_v2", 0)


def _float_top() -> None:
    if _stack():
        _call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))


class Device:
    def __init__(self, number: int) -> None:
        found = ctypes.c_int()
        _call("cuDeviceGet", ctypes.byref(found), number)
        self._device = found.value

    @staticmethod
    def count() -> int:
        found = ctypes.c_int()
        _call("cuDeviceGetCount", ctypes.byref(found))
        return found.value

    def name(self) -> str:
        room = ctypes.create_string_buffer(1024)
        _call("cuDeviceGetName", room, len(room), self._device)
        return room.value.decode()

    def get_attribute(self, attr: int) -> int:
        value = ctypes.c_int()
        _call("cuDeviceGetAttribute", ctypes.byref(value), attr, self._device)
        return value.value

    def compute_capability(self) -> tuple[int, int]:
        attributes = device_attribute
        major, minor = attributes.COMPUTE_CAPABILITY_MAJOR, attributes.COMPUTE_CAPABILITY_MINOR
        return self.get_attribute(major), self.get_attribute(minor)

    def total_memory(self) -> int:
        size = ctypes.c_size_t()
        _call("cuDeviceTotalMem_v2", ctypes.byref(size), self._device)
        return size.value

    def retain_primary_context(self) -> Context:
        handle = ctypes.c_void_p()
        _call("cuDevicePrimaryCtxRetain", ctypes.byref(handle), self._device)
        return Context(handle.value or 0)


class _Owned:
    """What belongs to the context that it was made in; `_give_back` is called in that context, at most once."""

    _valid = False

    def __init__(self) -> None:
        context = Context.get_current()
        if context is None:
            raise _failed("explicit_context_dependent", _INVALID_CONTEXT, "no currently active context?")
        self._ward = context

    def _release(self) -> None:
        self._valid = False
        pushed = Context.get_current() != self._ward
        if pushed and threading.get_ident() != self._ward._thread:
            sys.stderr.write(f"PyCUDA WARNING: leaked out-of-thread {type(self).__name__}\n")
            return
        if pushed:
            self._ward.push()
        self._give_back()
        if pushed:
            Context.pop()

    def _give_back(self) -> None:
        raise NotImplementedError

    def __del__(self) -> None:
        if self._valid:
            self._release()


class _Freed(_Owned):
    def free(self) -> None:
        if not self._valid:
            raise _failed(f"{type(self).__name__}::free", _INVALID_HANDLE)
        self._release()


# --------------------------------------------------------------------------------------------- memory


@_as_compiled
class DeviceAllocation(_Freed):
    _pointer: int

    def __int__(self) -> int:
        return self._pointer

    def __index__(self) -> int:
        return self._pointer

    def _give_back(self) -> None:
        _clean_up("cuMemFree_v2", self._pointer)


def mem_alloc(bytes: int) -> DeviceAllocation:  # noqa: A002 -- pycuda's own name
    pointer = ctypes.c_uint64()
    made = DeviceAllocation()
    _call("cuMemAlloc_v2", ctypes.byref(pointer), bytes)
    made._pointer, made._valid = pointer.value, True
    return made


@_as_compiled
class PagelockedHostAllocation(_Freed):
    """What the arrays of `pagelocked_empty` stand on: their `base`."""

    def __init__(self, size: int, flags: int) -> None:
        super().__init__()
        address = ctypes.c_void_p()
        _call("cuMemHostAlloc", ctypes.byref(address), size, flags)
        self._address, self._valid = address.value or 0, True
        self.__array_interface__ = {
            "version": 3,
            "data": (self._address, False),
            "shape": (size,),
            "typestr": "|u1",
        }

    def get_device_pointer(self) -> int:
        pointer = ctypes.c_uint64()
        _call("cuMemHostGetDevicePointer_v2", ctypes.byref(pointer), self._address, 0)
        return pointer.value

    def get_flags(self) -> int:
        flags = ctypes.c_uint()
        _call("cuMemHostGetFlags", ctypes.byref(flags), self._address)
        return flags.value

    def _give_back(self) -> None:
        _clean_up("cuMemFreeHost", self._address)


HostAllocation = PagelockedHostAllocation


def pagelocked_empty(shape: Any, dtype: Any, order: str = "C", mem_flags: int = 0) -> np.ndarray:
    kind = np.dtype(dtype)
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    size = int(np.prod(sizes)) * kind.itemsize
    allocation = PagelockedHostAllocation(size, mem_flags)
    allocation.__array_interface__ |= {"shape": sizes, "typestr": kind.str}
    if order != "C":
        raise NotImplementedError(order)
    return np.asarray(allocation)


def _address(array: Any, *, write: bool) -> tuple[int, int]:
    if not array.flags.c_contiguous or (write and not array.flags.writeable):
        raise ValueError("ndarray is not contiguous or not writable")
    return array.ctypes.data, array.nbytes


def _handle(stream: Stream | None) -> int | None:
    return None if stream is None else stream.handle


def memcpy_htod_async(dest: Any, src: Any, stream: Stream | None = None) -> None:
    address, size = _address(src, write=False)
    _call("cuMemcpyHtoDAsync_v2", int(dest), address, size, _handle(stream))


def memcpy_dtoh_async(dest: Any, src: Any, stream: Stream | None = None) -> None:
    address, size = _address(dest, write=True)
    _call("cuMemcpyDtoHAsync_v2", address, int(src), size, _handle(stream))


def memcpy_dtod_async(dest: Any, src: Any, size: int, stream: Stream | None = None) -> None:
    _call("cuMemcpyDtoDAsync_v2", int(dest), int(src), size, _handle(stream))


# ---------------------------------------------------------------------------------- streams and events


@_as_compiled
class Stream(_Owned):
    def __init__(self, flags: int = 0) -> None:
        super().__init__()
        handle = ctypes.c_void_p()
        _call("cuStreamCreate", ctypes.byref(handle), flags)
        self._handle, self._valid = handle.value or 0, True

    @property
    def handle(self) -> int:
        return self._handle

    def synchronize(self) -> None:
        _call("cuStreamSynchronize", self._handle)

    def is_done(self) -> bool:
        return _done("cuStreamQuery", self._handle)

    def wait_for_event(self, evt: Event) -> None:
        _call("cuStreamWaitEvent", self._handle, evt._handle, 0)

    def _give_back(self) -> None:
        _clean_up("cuStreamDestroy_v2", self._handle)


@_as_compiled
class Event(_Owned):
    def __init__(self, flags: int = 0) -> None:
        super().__init__()
        handle = ctypes.c_void_p()
        _call("cuEventCreate", ctypes.byref(handle), flags)
        self._handle, self._valid = handle.value or 0, True

    def record(self, stream: Stream | None = None) -> Event:
        _call("cuEventRecord", self._handle, _handle(stream))
        return self

    def synchronize(self) -> Event:
        _call("cuEventSynchronize", self._handle)
        return self

    def query(self) -> bool:
        return _done("cuEventQuery", self._handle)

    def time_till(self, end: Event) -> float:
        return _elapsed(self, end)

    def time_since(self, start: Event) -> float:
        return _elapsed(start, self)

    def _give_back(self) -> None:
        _clean_up("cuEventDestroy_v2", self._handle)


def _done(function: str, handle: int) -> bool:
    code = getattr(_driver, function)(handle)
    if code not in {0, _NOT_READY}:
        raise _failed(function, code)
    return code == 0


def _elapsed(start: Event, stop: Event) -> float:
    found = ctypes.c_float()
    _call("cuEventElapsedTime", ctypes.byref(found), start._handle, stop._handle)
    return found.value
