"""A GPU in memory that does nothing before somebody waits for it: `mmtrt.runtimes.cuda.Cuda`.

Work is put on a stream as closures, and done in order when a stream or an event is waited for; `passed` does one
step. So what reads results too early, or frees memory too early, is found each time. A captured stream keeps its
closures as a graph. Each step moves one clock on, which events read.
"""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
from fake_work import Capture, Event, Step

from mmtrt.errors import MachineError
from mmtrt.runtimes.cuda import GpuInfo

COPY_MS, RUN_MS = 0.25, 1.0

GIVES_BACK = {"free", "free_host", "destroy_stream", "destroy_event", "destroy_graph", "close"}


def _call(method: Callable[..., Any]) -> Callable[..., Any]:
    """Count the call, and let it fail where a test asked for that; what gives back does so, and then fails."""
    name = method.__name__

    @functools.wraps(method)
    def call(self: FakeCuda, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            self.calls[name] += 1
            faulty = self._fault_due(name)
            if faulty and name == "end_capture":
                # The contract has the stream usable again after a failed call, and nothing is returned.
                self.graphs.pop(method(self, *args, **kwargs))
            if faulty and name not in GIVES_BACK:
                raise MachineError(f"{name} failed: as the test wants it")
            if name not in GIVES_BACK | {"activate"}:
                self._usable(name)
            elif self.closed:
                return None
            answer = method(self, *args, **kwargs)
            if faulty:
                raise MachineError(f"{name} failed: as the test wants it")
            return answer

    return call


class FakeCuda:
    """What is allocated is in `memory` and `host` until it is freed; `limit` is the device's memory, bytes.

    `fail(n)` lets the n-th call from then on fail, `fail(n, "h2d")` the n-th of that method. A pointer that is not
    there loses the context, as an illegal address does: then all but giving back fails.
    """

    current: FakeCuda

    def __init__(self, limit: int = 1 << 20, *, shares_memory: bool = False) -> None:
        self.memory: dict[int, np.ndarray] = {}
        self.foreign: dict[int, np.ndarray] = {}
        self.host: dict[int, np.ndarray] = {}
        self.mapped: set[int] = set()
        self.streams: dict[int, list[Step]] = {}
        self.events: dict[int, Event] = {}
        self.graphs: dict[int, list[Step]] = {}
        self.captures: dict[int, Capture] = {}
        self.calls: Counter[str] = Counter()
        self.leaked: Counter[str] = Counter()
        self.clock_ms = 0.0
        self.limit = limit
        self.closed = False
        self.lost = ""
        self.fail_host = False
        self.shares_memory = shares_memory
        self.device = 0
        self.info = GpuInfo(name="Fake", compute_capability="9.0", memory_mib=limit >> 20, driver="fake")
        self._faults: list[tuple[int, str]] = []
        self._handles = count(1)
        self._lock = threading.RLock()
        self._thread = threading.local()
        self._thread.active = True
        FakeCuda.current = self

    # ------------------------------------------------------------------------------------- for tests

    @property
    def syncs(self) -> int:
        """How often a stream was waited for."""
        return self.calls["sync"]

    def fail(self, call: int, method: str = "") -> None:
        """Let the `call`-th call from here on fail (from 1), of `method`, else of any that doesn't give back."""
        self._faults.append((call, method))

    def left_over(self) -> bool:
        """Tell whether something was not given back, also where `close` had to do it."""
        return bool(self.memory or self.host or self.streams or self.events or self.graphs or self.leaked)

    def adopt(self, array: np.ndarray) -> int:
        """Return a pointer to memory of somebody else's, such as a tensor of PyTorch; `disown` takes it away."""
        pointer = next(self._handles) << 12
        self.foreign[pointer] = array.reshape(-1).view(np.uint8)
        return pointer

    def disown(self, pointer: int) -> None:
        del self.foreign[pointer]

    def at(self, pointer: int) -> np.ndarray:
        """Return the bytes at a pointer; called by the device, so a wrong one loses the context."""
        for found in (self.memory, self.foreign, self.host):
            if pointer in found and (found is not self.host or pointer in self.mapped):
                return found[pointer]
        raise MachineError(f"CUDA_ERROR_ILLEGAL_ADDRESS: {pointer:#x}")

    def enqueue(self, stream: int, work: Callable[[], None], touches: tuple[int, ...] = (), ms: float = RUN_MS) -> None:
        """Put work on a stream, as an engine does; `work` raises MachineError where the device fails."""
        with self._lock:
            self._usable("enqueue")
            self._put(stream, Step(work, touches, ms))

    # ------------------------------------------------------------------------------------- memory

    @_call
    def activate(self) -> None:
        self._thread.active = True

    @_call
    def alloc(self, nbytes: int) -> int:
        self._outside_capture("alloc")
        if nbytes > self.limit - sum(block.nbytes for block in self.memory.values()):
            raise MachineError("alloc failed: CUDA_ERROR_OUT_OF_MEMORY: out of memory")
        pointer = next(self._handles) << 12
        self.memory[pointer] = np.full(nbytes, 0xA5, np.uint8)
        return pointer

    @_call
    def free(self, pointer: int) -> None:
        self._outside_capture("free")
        self._unused(pointer)
        del self.memory[pointer]

    @_call
    def alloc_host(self, nbytes: int, *, mapped: bool = False) -> np.ndarray:
        self._outside_capture("alloc_host")
        if self.fail_host:
            raise MachineError("alloc_host failed: CUDA_ERROR_OUT_OF_MEMORY: out of memory")
        buffer = np.full(nbytes, 0xA5, np.uint8)
        self.host[buffer.ctypes.data] = buffer
        if mapped:
            self.mapped.add(buffer.ctypes.data)
        return buffer

    @_call
    def device_pointer(self, buffer: np.ndarray) -> int:
        if buffer.ctypes.data not in self.mapped:
            raise MachineError("device_pointer failed: CUDA_ERROR_INVALID_VALUE: it is not mapped")
        return int(buffer.ctypes.data)

    @_call
    def free_host(self, buffer: np.ndarray) -> None:
        self._outside_capture("free_host")
        self._unused(buffer.ctypes.data)
        del self.host[buffer.ctypes.data]
        self.mapped.discard(buffer.ctypes.data)

    @_call
    def h2d(self, pointer: int, buffer: np.ndarray, stream: int) -> None:
        self._pinned(buffer)
        touches = (pointer, buffer.ctypes.data)
        self._put(stream, Step(lambda: _copy(self.at(pointer), buffer), touches, COPY_MS))

    @_call
    def d2h(self, buffer: np.ndarray, pointer: int, stream: int) -> None:
        self._pinned(buffer)
        touches = (pointer, buffer.ctypes.data)
        self._put(stream, Step(lambda: _copy(buffer, self.at(pointer)[: buffer.nbytes]), touches, COPY_MS))

    @_call
    def d2d(self, target: int, source: int, nbytes: int, stream: int) -> None:
        touches = (target, source)
        self._put(stream, Step(lambda: _copy(self.at(target), self.at(source)[:nbytes]), touches, COPY_MS))

    # ------------------------------------------------------------------------------------- streams and events

    @_call
    def create_stream(self) -> int:
        stream = next(self._handles)
        self.streams[stream] = []
        return stream

    @_call
    def sync(self, stream: int) -> None:
        self._not_captured(stream, "sync")
        while self.streams[stream]:
            self._step(stream)

    @_call
    def destroy_stream(self, stream: int) -> None:
        assert stream not in self.captures, "the stream is being captured"
        del self.streams[stream]

    @_call
    def create_event(self, *, timing: bool = True) -> int:
        event = next(self._handles)
        self.events[event] = Event(timing)
        return event

    @_call
    def record(self, event: int, stream: int) -> None:
        noted = self.events[event]
        capture = self.captures.get(stream)
        noted.capture, noted.stream = capture, stream
        if capture is not None:
            # Other streams join the capture by it; it is no part of the graph.
            capture.unjoined.discard(stream)
            return
        noted.recorded += 1
        turn = noted.recorded

        def pass_by() -> None:
            noted.done, noted.at_ms = turn, self.clock_ms

        self._put(stream, Step(pass_by))

    @_call
    def wait(self, stream: int, event: int) -> None:
        noted = self.events[event]
        mine = self.captures.get(stream)
        if noted.capture is not None:
            assert mine is None or mine is noted.capture, "two captures can't wait for each other"
            self.captures[stream] = noted.capture
            noted.capture.streams.add(stream)
            if mine is None:
                noted.capture.unjoined.add(stream)
        elif mine is not None:
            mine.broken = mine.broken or "it waits for work outside the capture"
            raise MachineError("wait failed: CUDA_ERROR_STREAM_CAPTURE_ISOLATION")
        else:
            self._put(stream, Step(lambda: None, waits_for=(event, noted.recorded)))

    @_call
    def sync_event(self, event: int) -> None:
        noted = self._event_outside(event, "sync_event")
        while noted.done < noted.recorded:
            self._step(noted.stream)

    @_call
    def passed(self, event: int) -> bool:
        noted = self._event_outside(event, "passed")
        if noted.done < noted.recorded:
            self._step(noted.stream)
        return noted.done >= noted.recorded

    @_call
    def elapsed_ms(self, start: int, stop: int) -> float:
        pair = [self._event_outside(event, "elapsed_ms") for event in (start, stop)]
        if not all(event.timing and event.recorded for event in pair):
            raise MachineError("elapsed_ms failed: CUDA_ERROR_INVALID_HANDLE: no time is kept, or nothing recorded")
        if not all(event.done == event.recorded for event in pair):
            raise MachineError("elapsed_ms failed: CUDA_ERROR_NOT_READY")
        return pair[1].at_ms - pair[0].at_ms

    @_call
    def destroy_event(self, event: int) -> None:
        del self.events[event]

    # ------------------------------------------------------------------------------------- graphs

    @_call
    def begin_capture(self, stream: int) -> None:
        self._not_captured(stream, "begin_capture")
        self._outside_capture("begin_capture")
        assert stream in self.streams
        self.captures[stream] = self._thread.capture = Capture(streams={stream})

    @_call
    def end_capture(self, stream: int) -> int:
        capture = self.captures.get(stream)
        if capture is None:
            raise MachineError("end_capture failed: CUDA_ERROR_ILLEGAL_STATE: nothing is captured")
        self._thread.capture = None
        for joined in capture.streams:
            self.captures.pop(joined, None)
        for event in self.events.values():
            if event.capture is capture:
                event.capture = None
        if capture.broken or capture.unjoined:
            why = capture.broken or "a stream was not joined"
            raise MachineError(f"end_capture failed: CUDA_ERROR_STREAM_CAPTURE_INVALIDATED: {why}")
        graph = next(self._handles)
        self.graphs[graph] = capture.steps
        return graph

    @_call
    def launch(self, graph: int, stream: int) -> None:
        self._not_captured(stream, "launch")
        for step in self.graphs[graph]:
            self.streams[stream].append(Step(step.work, step.touches, step.ms, graph=graph))

    @_call
    def destroy_graph(self, graph: int) -> None:
        if not self.lost:
            assert all(step.graph != graph for steps in self.streams.values() for step in steps), "the graph runs"
        del self.graphs[graph]

    # ------------------------------------------------------------------------------------- the device

    @_call
    def free_bytes(self) -> int:
        return self.limit - sum(block.nbytes for block in self.memory.values())

    @_call
    def total_bytes(self) -> int:
        return self.limit

    @_call
    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        for kind in ("memory", "host", "streams", "events", "graphs"):
            things = getattr(self, kind)
            self.leaked.update({kind: len(things)} if things else {})
            things.clear()
        self.captures.clear()

    def _fault_due(self, name: str) -> bool:
        due, rest = False, []
        for call, method in self._faults:
            counts = name == method if method else name not in GIVES_BACK
            due = due or (counts and call == 1)
            if not (counts and call == 1):
                rest.append((call - counts, method))
        self._faults = rest
        return due

    def _usable(self, name: str) -> None:
        if self.closed:
            raise MachineError(f"{name}: the device is closed")
        if self.lost:
            raise MachineError(f"{name} failed: the context is lost: {self.lost}")
        assert getattr(self._thread, "active", False), f"{name} in a thread that did not call `activate`"

    def _put(self, stream: int, step: Step) -> None:
        capture = self.captures.get(stream)
        (self.streams[stream] if capture is None else capture.steps).append(step)

    def _step(self, stream: int) -> None:
        """Do the next step of a stream, and of others what it waits for."""
        step = self.streams[stream].pop(0)
        if step.waits_for is not None:
            event, turn = step.waits_for
            noted = self.events.get(event)
            while noted is not None and noted.done < turn:
                self._step(noted.stream)
        try:
            step.work()
        except MachineError as error:
            self.lost = error.message
            for steps in self.streams.values():
                steps.clear()
            raise
        self.clock_ms += step.ms

    def _outside_capture(self, name: str) -> None:
        capture = getattr(self._thread, "capture", None)
        if capture is not None and not self.lost:
            capture.broken = capture.broken or f"{name} was called meanwhile"
            raise MachineError(f"{name} failed: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")

    def _not_captured(self, stream: int, name: str) -> None:
        assert stream in self.streams, f"{name} of a stream that is not there"
        capture = self.captures.get(stream)
        if capture is not None:
            capture.broken = capture.broken or f"{name} was called meanwhile"
            raise MachineError(f"{name} failed: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")

    def _event_outside(self, event: int, name: str) -> Event:
        noted = self.events[event]
        if noted.capture is not None:
            noted.capture.broken = noted.capture.broken or f"{name} was called meanwhile"
            raise MachineError(f"{name} failed: CUDA_ERROR_CAPTURED_EVENT")
        return noted

    def _unused(self, pointer: int) -> None:
        busy = any(pointer in step.touches for steps in self.streams.values() for step in steps)
        assert not busy, f"memory at {pointer:#x} is freed while the device uses it"

    def _pinned(self, buffer: np.ndarray) -> None:
        start = buffer.ctypes.data
        inside = any(at <= start and start + buffer.nbytes <= at + held.nbytes for at, held in self.host.items())
        assert inside, "a copy from memory that is not pinned is not asynchronous"


def _copy(target: np.ndarray, source: np.ndarray) -> None:
    if source.nbytes > target.nbytes:
        raise MachineError("CUDA_ERROR_ILLEGAL_ADDRESS: a copy ends behind the memory")
    target[: source.nbytes] = source
