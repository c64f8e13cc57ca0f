"""Calls of the software driver, and pycuda's errors."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

_driver = ctypes.CDLL("libcuda.so.1")
_ARGUMENTS: dict[str, list[Any]] = {
    "cuCtxPushCurrent_v2": [ctypes.c_void_p],
    "cuMemAlloc_v2": [ctypes.c_void_p, ctypes.c_size_t],
    "cuMemFree_v2": [ctypes.c_uint64],
    "cuMemHostAlloc": [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint],
    "cuMemFreeHost": [ctypes.c_void_p],
    "cuMemHostGetDevicePointer_v2": [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint],
    "cuMemHostGetFlags": [ctypes.c_void_p, ctypes.c_void_p],
    "cuMemcpyHtoDAsync_v2": [ctypes.c_uint64, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p],
    "cuMemcpyDtoHAsync_v2": [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p],
    "cuMemcpyDtoDAsync_v2": [ctypes.c_uint64, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p],
    "cuStreamSynchronize": [ctypes.c_void_p],
    "cuStreamQuery": [ctypes.c_void_p],
    "cuStreamDestroy_v2": [ctypes.c_void_p],
    "cuStreamWaitEvent": [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint],
    "cuEventRecord": [ctypes.c_void_p, ctypes.c_void_p],
    "cuEventSynchronize": [ctypes.c_void_p],
    "cuEventQuery": [ctypes.c_void_p],
    "cuEventDestroy_v2": [ctypes.c_void_p],
    "cuEventElapsedTime": [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p],
}
for _name, _kinds in _ARGUMENTS.items():
    getattr(_driver, _name).argtypes = _kinds


class Error(Exception):
    pass


class MemoryError(Error):  # noqa: A001 -- pycuda's own name
    pass


class LogicError(Error):
    pass


class LaunchError(Error):
    pass


class RuntimeError(Error):  # noqa: A001 -- pycuda's own name
    pass


_KINDS = {2: MemoryError, 100: RuntimeError, 600: RuntimeError, 701: LaunchError, 702: LaunchError, 719: LaunchError}


def _failed(call: str, code: int, more: str = "") -> Error:
    told = ctypes.c_char_p()
    _driver.cuGetErrorString(code, ctypes.byref(told))
    reason = told.value.decode() if told.value else "invalid/unknown error code"
    name = call.removesuffix("_v2")
    return _KINDS.get(code, LogicError)(f"{name} failed: {reason}{f' - {more}' if more else ''}")


def _call(function: str, *args: Any) -> None:
    code = getattr(_driver, function)(*args)
    if code:
        raise _failed(function, code)


def _clean_up(function: str, *args: Any) -> None:
    """Call what gives something back: it only warns."""
    try:
        _call(function, *args)
    except Error as error:
        sys.stderr.write(f"PyCUDA WARNING: a clean-up operation failed (dead context maybe?)\n{error}\n")
