"""pycuda.driver as a stand-in, over the one of libcuda; names and signatures are those of pycuda 2026.1."""

# ruff: noqa: N802

from __future__ import annotations

import builtins
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from cuda_packages import PRIMARY, SENTENCES, LibCuda, raising
from fake_cuda import FakeCuda


class Context:
    def __init__(self, driver: PycudaDriver, handle: int) -> None:
        self._driver = driver
        self.handle = handle

    def push(self) -> None:
        self._driver.float_top()
        self._driver.library.current().append(self.handle)
        self._driver.stack().append(self)
        self._driver.library.settle()

    def pop(self) -> None:
        self._driver.float_top()
        self._driver.stack().pop()
        self._driver.library.current().extend(context.handle for context in self._driver.stack()[-1:])
        self._driver.library.settle()


class PycudaDriver:
    """`pycuda.driver`. Its objects free themselves when the last name of theirs goes, where a context is pushed."""

    class Error(Exception):
        pass

    class MemoryError(Error, builtins.MemoryError):  # noqa: A001
        pass

    class LogicError(Error):
        pass

    device_attribute = SimpleNamespace(INTEGRATED=18, CAN_MAP_HOST_MEMORY=19)
    host_alloc_flags = SimpleNamespace(PORTABLE=1, DEVICEMAP=2)
    event_flags = SimpleNamespace(DEFAULT=0, DISABLE_TIMING=2)

    def __init__(self, fake: FakeCuda, library: LibCuda) -> None:
        self._fake = fake
        self.library = library
        self.stacks: dict[int, list[Context]] = {}
        self.primary = Context(self, PRIMARY)
        library.settle()

    def stack(self) -> list[Context]:
        """The calling thread's contexts: pycuda aborts the process where some are left when the thread ends."""
        return self.stacks.setdefault(threading.get_ident(), [])

    def float_top(self) -> None:
        if self.stack():
            self.library.current().pop()

    def error(self, code: Any) -> Exception:
        kind = self.MemoryError if code == 2 else self.LogicError
        return kind(f"cuSomething failed: {SENTENCES.get(int(code), 'what it means')}")

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with raising(self.error):
            return function(*args, **kwargs)

    def make(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        assert self.stack()[-1:] == [self.primary], "things are made in the context on top of pycuda's own stack"
        return self.call(function, *args, **kwargs)

    def init(self) -> None: ...

    def Device(self, index: int) -> Any:
        assert index == 0
        shares = self._fake.shares_memory
        return SimpleNamespace(
            retain_primary_context=lambda: self.primary,
            get_attribute=lambda attribute: int(shares or attribute == self.device_attribute.CAN_MAP_HOST_MEMORY),
        )

    def Stream(self, flags: int = 0) -> Any:
        assert flags == 1, "it would wait for the default stream"
        return PycudaStream(self, self._fake)

    def Event(self, flags: int = 0) -> Any:
        return PycudaEvent(self, self._fake, flags)

    def mem_alloc(self, nbytes: int) -> Any:
        return Allocation(self, self.make(self._fake.alloc, nbytes), self._fake.free)

    def pagelocked_empty(self, shape: int, dtype: Any, order: str = "C", mem_flags: int = 0) -> Any:
        assert (np.dtype(dtype), order) == (np.dtype(np.uint8), "C")
        held = self.make(self._fake.alloc_host, shape, mapped=bool(mem_flags & 2))
        allocation = Allocation(self, held, self._fake.free_host)
        allocation.__array_interface__ = held.__array_interface__
        return np.asarray(allocation)

    def memcpy_htod_async(self, dest: int, src: Any, stream: Any) -> None:
        self.call(self._fake.h2d, dest, src, stream.handle)

    def memcpy_dtoh_async(self, dest: Any, src: int, stream: Any) -> None:
        self.call(self._fake.d2h, dest, src, stream.handle)

    def memcpy_dtod_async(self, dest: int, src: int, size: int, stream: Any) -> None:
        self.call(self._fake.d2d, dest, src, size, stream.handle)

    def mem_get_info(self) -> tuple[int, int]:
        return self.call(self._fake.free_bytes), self.call(self._fake.total_bytes)


class Allocation:
    def __init__(self, driver: PycudaDriver, what: Any, free: Callable[[Any], None]) -> None:
        self._driver, self._what, self._free = driver, what, free
        self._valid = True

    def __int__(self) -> int:
        return int(self._what)

    def get_device_pointer(self) -> int:
        return int(self._driver.call(self._driver._fake.device_pointer, self._what))

    def free(self) -> None:
        if not self._valid:
            raise self._driver.LogicError("free failed: invalid handle")
        self._valid = False
        self._driver.make(self._free, self._what)

    def __del__(self) -> None:
        if self._valid and self._driver.stack():
            self.free()


class PycudaStream:
    def __init__(self, driver: PycudaDriver, fake: FakeCuda) -> None:
        self._driver, self._fake = driver, fake
        self.handle = driver.make(fake.create_stream)

    def synchronize(self) -> None:
        self._driver.call(self._fake.sync, self.handle)

    def wait_for_event(self, event: PycudaEvent) -> None:
        self._driver.call(self._fake.wait, self.handle, event.number)

    def __del__(self) -> None:
        if self._driver.stack():
            self._driver.call(self._fake.destroy_stream, self.handle)


class PycudaEvent:
    def __init__(self, driver: PycudaDriver, fake: FakeCuda, flags: int) -> None:
        self._driver, self._fake = driver, fake
        self.number = driver.make(fake.create_event, timing=flags != driver.event_flags.DISABLE_TIMING)

    def record(self, stream: PycudaStream) -> PycudaEvent:
        self._driver.call(self._fake.record, self.number, stream.handle)
        return self

    def synchronize(self) -> PycudaEvent:
        self._driver.call(self._fake.sync_event, self.number)
        return self

    def query(self) -> bool:
        return bool(self._driver.call(self._fake.passed, self.number))

    def time_till(self, stop: PycudaEvent) -> float:
        return float(self._driver.call(self._fake.elapsed_ms, self.number, stop.number))

    def __del__(self) -> None:
        if self._driver.stack():
            self._driver.call(self._fake.destroy_event, self.number)
