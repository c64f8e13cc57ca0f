"""The driver's own functions, by ctypes, for what no package offers as it is needed here."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from mmtrt.errors import MachineError
from mmtrt.runtimes.cuda.driver import LIBRARY

__all__ = ["DriverError", "Library"]

_ARGUMENTS: dict[str, list[Any]] = {
    "cuStreamBeginCapture_v2": [ctypes.c_void_p, ctypes.c_int],
    "cuStreamEndCapture": [ctypes.c_void_p, ctypes.c_void_p],
    "cuGraphInstantiateWithFlags": [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ulonglong],
    "cuGraphLaunch": [ctypes.c_void_p, ctypes.c_void_p],
    "cuGraphExecDestroy": [ctypes.c_void_p],
    "cuGraphDestroy": [ctypes.c_void_p],
    "cuCtxSetCurrent": [ctypes.c_void_p],
    "cuCtxGetCurrent": [ctypes.c_void_p],
    "cuGetErrorName": [ctypes.c_int, ctypes.c_void_p],
    "cuGetErrorString": [ctypes.c_int, ctypes.c_void_p],
}


class DriverError(Exception):
    """A call of the driver's failed: `CUDA_ERROR_...`; `call` is its name."""

    def __init__(self, call: str, reason: str) -> None:
        super().__init__(reason)
        self.call = call


class Library:
    """The functions of libcuda; handles are integers. MachineError where it lacks one."""

    def __init__(self, library: Any = None) -> None:
        library = ctypes.CDLL(LIBRARY) if library is None else library
        self._functions: dict[str, Callable[..., int]] = {}
        for name, arguments in _ARGUMENTS.items():
            try:
                function = getattr(library, name)
            except AttributeError as error:
                raise MachineError(
                    f"{LIBRARY} lacks {name}: this driver is older than CUDA 11.4", fix="Install a newer driver."
                ) from error
            function.argtypes, function.restype = arguments, ctypes.c_int
            self._functions[name] = function

    def function(self, name: str) -> Callable[..., int]:
        """Return a function as it is, which returns the code of an error, 0 for none."""
        return self._functions[name]

    def call(self, name: str, *args: Any) -> None:
        """Call a function; DriverError where it fails."""
        code = self._functions[name](*args)
        if code:
            raise DriverError(name, self.error_name(code))

    def handle(self, name: str, *args: Any) -> int:
        """Call a function that writes a handle at `None` among its arguments, and return that; 0 for a null one."""
        found = ctypes.c_void_p()
        self.call(name, *(ctypes.byref(found) if arg is None else arg for arg in args))
        return found.value or 0

    def error_name(self, code: int) -> str:
        """Return the name of an error: `CUDA_ERROR_ILLEGAL_ADDRESS`."""
        return self._told("cuGetErrorName", code)

    def error_text(self, code: int) -> str:
        """Return what the driver says of an error: `an illegal memory access was encountered`."""
        return self._told("cuGetErrorString", code)

    def _told(self, function: str, code: int) -> str:
        told = ctypes.c_char_p()
        self._functions[function](code, ctypes.byref(told))
        return (told.value or b"").decode(errors="replace") or f"error {code}"
