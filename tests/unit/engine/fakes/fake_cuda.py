"""Device memory in a dict, and a clock that each copy and each run moves on: `mmtrt.runtimes.cuda.Cuda`."""

from __future__ import annotations

from itertools import count

import numpy as np

from mmtrt.errors import MachineError

COPY_MS, RUN_MS = 0.25, 1.0


class FakeCuda:
    """What is allocated is in `memory` and `host` until it is freed; `limit` is the device's memory, bytes."""

    current: FakeCuda

    def __init__(self, limit: int = 1 << 20) -> None:
        self.memory: dict[int, np.ndarray] = {}
        self.host: dict[int, np.ndarray] = {}
        self.streams: set[int] = set()
        self.events: dict[int, float] = {}
        self.clock_ms = 0.0
        self.limit = limit
        self.closed = False
        self.syncs = 0
        self.fail_host = False
        self._handles = count(1)
        FakeCuda.current = self

    def left_over(self) -> bool:
        return bool(self.memory or self.host or self.streams or self.events)

    def alloc(self, nbytes: int) -> int:
        if nbytes > self.free_bytes():
            raise MachineError("cudaMalloc failed: out of memory")
        pointer = next(self._handles) << 12
        self.memory[pointer] = np.zeros(nbytes, np.uint8)
        return pointer

    def free(self, pointer: int) -> None:
        del self.memory[pointer]

    def alloc_host(self, nbytes: int) -> np.ndarray:
        if self.fail_host:
            raise MachineError("cudaMallocHost failed")
        buffer = np.zeros(nbytes, np.uint8)
        self.host[buffer.ctypes.data] = buffer
        return buffer

    def free_host(self, buffer: np.ndarray) -> None:
        del self.host[buffer.ctypes.data]

    def h2d(self, pointer: int, buffer: np.ndarray, stream: int) -> None:
        assert stream in self.streams
        self.memory[pointer][: buffer.nbytes] = buffer
        self.clock_ms += COPY_MS

    def d2h(self, buffer: np.ndarray, pointer: int, stream: int) -> None:
        assert stream in self.streams
        buffer[:] = self.memory[pointer][: buffer.nbytes]
        self.clock_ms += COPY_MS

    def create_stream(self) -> int:
        stream = next(self._handles)
        self.streams.add(stream)
        return stream

    def sync(self, stream: int) -> None:
        assert stream in self.streams
        self.syncs += 1

    def destroy_stream(self, stream: int) -> None:
        self.streams.remove(stream)

    def create_event(self) -> int:
        event = next(self._handles)
        self.events[event] = -1.0
        return event

    def record(self, event: int, stream: int) -> None:
        assert stream in self.streams
        self.events[event] = self.clock_ms

    def elapsed_ms(self, start: int, stop: int) -> float:
        return self.events[stop] - self.events[start]

    def destroy_event(self, event: int) -> None:
        del self.events[event]

    def free_bytes(self) -> int:
        return self.limit - sum(block.nbytes for block in self.memory.values())

    def close(self) -> None:
        assert not self.left_over()
        self.closed = True
