"""The software driver, as TensorRT's libraries use the real one; numbers in, numbers out."""

from __future__ import annotations

import atexit
import ctypes
import itertools
from collections.abc import Callable

__all__ = [
    "ILLEGAL_ADDRESS",
    "LAUNCH_FAILED",
    "Memory",
    "capturing",
    "finish",
    "launch",
    "reach",
    "refuse_capture",
    "spin",
]

ILLEGAL_ADDRESS, LAUNCH_FAILED = 700, 719

_driver = ctypes.CDLL("libcuda.so.1")
_driver.emulated_reach.restype = ctypes.c_void_p
_driver.emulated_reach.argtypes = [ctypes.c_uint64, ctypes.c_size_t]
_driver.emulated_spin.argtypes = [ctypes.c_void_p, ctypes.c_longlong]
_WORK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
_driver.emulated_launch.argtypes = [ctypes.c_void_p, _WORK, ctypes.c_void_p]
_driver.cuStreamIsCapturing.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
_driver.cuStreamSynchronize.argtypes = [ctypes.c_void_p]
_driver.cuMemFree_v2.argtypes = [ctypes.c_uint64]
_driver.cuCtxSetCurrent.argtypes = [ctypes.c_void_p]

Work = Callable[[], int]
_tokens = itertools.count(1)
_works: dict[int, tuple[Work, bool]] = {}


@_WORK
def _run(token: int) -> int:
    work, again = _works[token]
    if not again:
        del _works[token]
    try:
        return work()
    except Exception:  # noqa: BLE001 -- a kernel that fails ends the context
        return LAUNCH_FAILED


def launch(stream: int, work: Work) -> bool:
    """Put work on a stream as a kernel is put; what it returns other than 0 breaks the context."""
    token = next(_tokens)
    _works[token] = work, capturing(stream)
    if _driver.emulated_launch(stream, _run, token):
        del _works[token]
        return False
    return True


def spin(stream: int, nanoseconds: int) -> bool:
    """Put work on a stream that takes so long and does nothing."""
    return not _driver.emulated_spin(stream, nanoseconds)


def capturing(stream: int) -> bool:
    """Tell whether a stream is being captured."""
    status = ctypes.c_int()
    _driver.cuStreamIsCapturing(stream, ctypes.byref(status))
    return bool(status.value)


def refuse_capture() -> None:
    """Do what no capture outlives: TensorRT does so where it has work to do that can't be recorded."""
    pointer = ctypes.c_uint64()
    if not _driver.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(1)):
        _driver.cuMemFree_v2(pointer.value)


def reach(pointer: int, nbytes: int) -> int | None:
    """Return where the host finds device memory; None where it is not whole and live."""
    return _driver.emulated_reach(pointer, max(nbytes, 1))


def finish(stream: int) -> None:
    """Wait for a stream."""
    _driver.cuStreamSynchronize(stream)


class Memory:
    """Device memory that frees itself; MemoryError where there is too little."""

    def __init__(self, nbytes: int) -> None:
        _use_primary_context()
        pointer = ctypes.c_uint64()
        self._pointer = 0
        if _driver.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(max(nbytes, 1))):
            raise MemoryError(nbytes)
        self._pointer = pointer.value

    @property
    def pointer(self) -> int:
        return self._pointer

    def __del__(self) -> None:
        if self._pointer:
            _driver.cuMemFree_v2(self._pointer)


def _use_primary_context() -> None:
    """As the runtime API does where no context is current; it keeps it until the process ends."""
    context = ctypes.c_void_p()
    _driver.cuInit(0)
    _driver.cuCtxGetCurrent(ctypes.byref(context))
    if not context.value:
        _driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
        _driver.cuCtxSetCurrent(context)


# No work may call Python once it is gone.
atexit.register(_driver.emulated_finish)
