"""What the software driver tells tests beside CUDA: what lives, what was called; and the faults that tests plant."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

__all__ = ["Emulated", "Live"]


@dataclass(frozen=True, kw_only=True)
class Live:
    """What exists on the device; bytes are of memory that was asked for."""

    device_bytes: int
    pinned_bytes: int
    streams: int
    events: int
    graphs: int
    executable_graphs: int


class Emulated:
    """The driver in this process."""

    def __init__(self) -> None:
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._driver.emulated_bytes.restype = ctypes.c_size_t
        self._driver.emulated_calls.restype = ctypes.c_long
        self._driver.emulated_clear_faults.restype = ctypes.c_long
        self._driver.emulated_live.restype = ctypes.c_long
        self._driver.emulated_called.restype = ctypes.c_size_t
        self._driver.emulated_reach.restype = ctypes.c_void_p
        self._driver.emulated_reach.argtypes = [ctypes.c_uint64, ctypes.c_size_t]
        self._driver.emulated_spin.argtypes = [ctypes.c_void_p, ctypes.c_longlong]
        work = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
        self._illegal = work(lambda _: 700)
        self._driver.emulated_launch.argtypes = [ctypes.c_void_p, work, ctypes.c_void_p]

    @property
    def live(self) -> Live:
        count, size = self._driver.emulated_live, self._driver.emulated_bytes
        return Live(
            device_bytes=size(0),
            pinned_bytes=size(1),
            streams=count(2),
            events=count(3),
            graphs=count(4),
            executable_graphs=count(5),
        )

    @property
    def contexts(self) -> int:
        return int(self._driver.emulated_live(1))

    @property
    def peak_bytes(self) -> int:
        """The most device memory that ever lived."""
        return int(self._driver.emulated_bytes(4))

    def calls(self, name: str) -> int:
        """How often a function of the driver was called; `cuMemAlloc` counts each version of it."""
        return int(self._driver.emulated_calls(name.encode()))

    def called(self) -> set[str]:
        """The names of all functions that were called."""
        room = ctypes.create_string_buffer(1 << 16)
        self._driver.emulated_called(room, len(room))
        return set(room.value.decode().split())

    def fail(self, name: str, code: int, *, nth: int = 1) -> None:
        """Let the nth call of a function from here on fail with a code, and do nothing."""
        self._driver.emulated_fail_call(name.encode(), ctypes.c_long(nth), code)

    def clear_faults(self) -> int:
        """Take back the faults that were not met; return how many."""
        return int(self._driver.emulated_clear_faults())

    def mend(self) -> None:
        """Let the context work again after an error that no real one outlives."""
        self._driver.emulated_mend()

    def break_at(self, stream: int) -> None:
        """Put work on a stream that reads memory which is not there."""
        assert not self._driver.emulated_launch(stream, self._illegal, None)

    def reach(self, pointer: int, nbytes: int) -> int | None:
        """Where the host finds device memory; None where it is not whole and live."""
        found: int | None = self._driver.emulated_reach(pointer, nbytes)
        return found

    def spin(self, stream: int, ms: float) -> int:
        """Keep a stream busy; return the driver's code."""
        return int(self._driver.emulated_spin(stream, int(ms * 1e6)))
