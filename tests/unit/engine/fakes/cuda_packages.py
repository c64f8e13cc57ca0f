"""cuda-core, cuda.bindings.driver and libcuda as stand-ins, all over one CUDA in memory.

Names and signatures are those of cuda-core 1.0 and cuda-bindings 12.9.
"""

# ruff: noqa: N802

from __future__ import annotations

import contextlib
import enum
import re
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from fake_cuda import FakeCuda

from mmtrt.errors import MachineError

CODES = {
    "CUDA_SUCCESS": 0,
    "CUDA_ERROR_INVALID_VALUE": 1,
    "CUDA_ERROR_OUT_OF_MEMORY": 2,
    "CUDA_ERROR_INVALID_HANDLE": 400,
    "CUDA_ERROR_ILLEGAL_STATE": 401,
    "CUDA_ERROR_NOT_READY": 600,
    "CUDA_ERROR_ILLEGAL_ADDRESS": 700,
    "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED": 900,
    "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED": 901,
    "CUDA_ERROR_CAPTURED_EVENT": 907,
    "CUDA_ERROR_UNKNOWN": 999,
}
SENTENCES = {2: "out of memory", 700: "an illegal memory access was encountered", 999: "unknown error"}
PRIMARY = 0x1000
CUresult = enum.IntEnum("CUresult", CODES)  # type: ignore[misc]


class CUDAError(Exception):
    """cuda-core's."""


def told(code: Any) -> CUDAError:
    return CUDAError(f"{code.name}: what it means")


def code_of(error: MachineError) -> Any:
    found = re.search(r"CUDA_ERROR_\w+", error.message)
    return CUresult[found[0] if found else "CUDA_ERROR_UNKNOWN"]


@contextlib.contextmanager
def raising(kind: Callable[[Any], Exception]) -> Iterator[None]:
    try:
        yield
    except MachineError as error:
        raise kind(code_of(error)) from None


# ------------------------------------------------------------------------------------------------- libcuda


class LibCuda:
    """The driver's functions, as ctypes gives them; `broken` names those that fail with 999."""

    def __init__(self, fake: FakeCuda, lacks: str = "") -> None:
        self._fake = fake
        self._lacks = lacks
        self.broken: set[str] = set()
        self.plain_graphs = 0
        self.contexts: dict[int, list[int]] = {}

    def __getattr__(self, name: str) -> Any:
        if name == self._lacks:
            raise AttributeError(name)
        function = getattr(type(self), f"_{name}")

        def call(*args: Any) -> int:
            if name in self.broken:
                return int(CODES["CUDA_ERROR_UNKNOWN"])
            try:
                function(self, *(getattr(arg, "value", arg) for arg in args))
            except MachineError as error:
                return int(code_of(error))
            return 0

        return call

    def current(self) -> list[int]:
        """The calling thread's contexts, as the driver stacks them: PRIMARY lets it use the device."""
        return self.contexts.setdefault(threading.get_ident(), [])

    def settle(self) -> None:
        self._fake._thread.active = self.current()[-1:] == [PRIMARY]

    def _cuCtxSetCurrent(self, context: int | None) -> None:
        self.current()[-1:] = [context] if context else []
        self.settle()

    def _cuCtxGetCurrent(self, context: Any) -> None:
        context._obj.value = (self.current() or [None])[-1]

    def _cuStreamBeginCapture_v2(self, stream: int, mode: int) -> None:
        assert mode == 1, "captured so that other threads are held up"
        self._fake.begin_capture(stream)

    def _cuStreamEndCapture(self, stream: int, graph: Any) -> None:
        graph._obj.value = self._fake.end_capture(stream)
        self.plain_graphs += 1

    def _cuGraphInstantiateWithFlags(self, instance: Any, graph: int, flags: int) -> None:
        assert flags == 0
        instance._obj.value = graph

    def _cuGraphLaunch(self, graph: int, stream: int) -> None:
        self._fake.launch(graph, stream)

    def _cuGraphExecDestroy(self, graph: int) -> None:
        self._fake.destroy_graph(graph)

    def _cuGraphDestroy(self, graph: int) -> None:
        assert graph
        self.plain_graphs -= 1

    def _cuGetErrorName(self, code: int, text: Any) -> None:
        text._obj.value = next((name.encode() for name, number in CODES.items() if number == code), None)

    def _cuGetErrorString(self, code: int, text: Any) -> None:
        text._obj.value = SENTENCES.get(code, "").encode() or None


# ------------------------------------------------------------------------------------------------- cuda-core


class CoreStream:
    def __init__(self, fake: FakeCuda) -> None:
        self._fake = fake
        with raising(told):
            self.handle = fake.create_stream()

    def sync(self) -> None:
        with raising(told):
            self._fake.sync(self.handle)

    def record(self, event: CoreEvent) -> CoreEvent:
        with raising(told):
            self._fake.record(event.handle, self.handle)
        return event

    def wait(self, event: CoreEvent) -> None:
        with raising(told):
            self._fake.wait(self.handle, event.handle)

    def close(self) -> None:
        self._fake.destroy_stream(self.handle)


class CoreEvent:
    def __init__(self, fake: FakeCuda, timing: bool) -> None:
        self._fake = fake
        with raising(told):
            self.handle = fake.create_event(timing=timing)

    def sync(self) -> None:
        with raising(told):
            self._fake.sync_event(self.handle)

    @property
    def is_done(self) -> bool:
        with raising(told):
            return self._fake.passed(self.handle)

    def __sub__(self, start: CoreEvent) -> float:
        with raising(lambda code: RuntimeError(f"One or both events have not completed: {code.name}")):
            return self._fake.elapsed_ms(start.handle, self.handle)

    def close(self) -> None:
        self._fake.destroy_event(self.handle)


class Core:
    """`cuda.core`."""

    __version__ = "1.0.1"

    def __init__(self, fake: FakeCuda) -> None:
        self._fake = fake
        self.refuses = False

    def Device(self, index: int) -> Any:
        fake = self._fake
        assert index == 0
        if self.refuses:
            raise CUDAError("CUDA_ERROR_INVALID_DEVICE")
        shares = fake.shares_memory
        return SimpleNamespace(
            set_current=fake.activate,
            properties=SimpleNamespace(integrated=shares, can_map_host_memory=True),
            create_stream=lambda: CoreStream(fake),
            create_event=lambda options: CoreEvent(fake, options["timing_enabled"]),
        )


class Driver:
    """`cuda.bindings.driver`: it answers `(error, *values)`."""

    CUDA_VERSION = 13000

    def __init__(self, fake: FakeCuda) -> None:
        self._fake = fake

    def _answer(self, call: Callable[..., Any], *args: Any, values: int = 0, **kwargs: Any) -> tuple[Any, ...]:
        try:
            answer = call(*args, **kwargs)
        except MachineError as error:
            return (code_of(error), *[None] * values)
        return (CUresult.CUDA_SUCCESS, *([answer] if values == 1 else answer or ()))

    def cuMemAlloc(self, nbytes: int) -> tuple[Any, ...]:
        return self._answer(self._fake.alloc, nbytes, values=1)

    def cuMemFree(self, pointer: int) -> tuple[Any, ...]:
        return self._answer(self._fake.free, pointer)

    def cuMemHostAlloc(self, nbytes: int, flags: int) -> tuple[Any, ...]:
        error, buffer = self._answer(self._fake.alloc_host, nbytes, values=1, mapped=bool(flags & 2))
        return error, None if buffer is None else buffer.ctypes.data

    def cuMemHostGetDevicePointer(self, address: int, flags: int) -> tuple[Any, ...]:
        assert flags == 0
        return self._answer(self._fake.device_pointer, self._fake.host[address], values=1)

    def cuMemFreeHost(self, address: int) -> tuple[Any, ...]:
        return self._answer(self._fake.free_host, self._fake.host[address])

    def cuMemcpyHtoDAsync(self, pointer: int, buffer: Any, nbytes: int, stream: int) -> tuple[Any, ...]:
        assert nbytes == buffer.nbytes
        return self._answer(self._fake.h2d, pointer, buffer, stream)

    def cuMemcpyDtoHAsync(self, buffer: Any, pointer: int, nbytes: int, stream: int) -> tuple[Any, ...]:
        assert nbytes == buffer.nbytes
        return self._answer(self._fake.d2h, buffer, pointer, stream)

    def cuMemcpyDtoDAsync(self, target: int, source: int, nbytes: int, stream: int) -> tuple[Any, ...]:
        return self._answer(self._fake.d2d, target, source, nbytes, stream)

    def cuMemGetInfo(self) -> tuple[Any, ...]:
        return self._answer(lambda: (self._fake.free_bytes(), self._fake.total_bytes()), values=2)
