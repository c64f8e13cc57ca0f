"""What both implementations of `Cuda` share: who holds what, graphs, and giving everything back."""

from __future__ import annotations

import contextlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from mmtrt.errors import MachineError
from mmtrt.runtimes.cuda.driver import GpuInfo
from mmtrt.runtimes.cuda.failures import error_name, failure, loses_context
from mmtrt.runtimes.cuda.graphs import Graphs
from mmtrt.runtimes.cuda.library import DriverError, Library

__all__ = ["Owner"]

_Give = Callable[[Any], None]


class Owner(ABC):
    """Keeps each thing under the integer by which it was handed out.

    A handle that is not kept, since it was given back or the device is closed, never reaches the driver, which
    would crash on it.
    """

    def __init__(self, device: int, info: GpuInfo, library: Library) -> None:
        self._device = device
        self._info = info
        self._library = library
        self._driver_graphs = Graphs(library)
        self._launch = self._driver_graphs.launch
        self._streams: dict[int, Any] = {}
        self._events: dict[int, Any] = {}
        self._memory: dict[int, Any] = {}
        self._host: dict[int, Any] = {}
        self._graphs: set[int] = set()
        self._captured: set[int] = set()
        self._closed = False
        self._lost = False

    @property
    def device(self) -> int:
        """The device's number."""
        return self._device

    @property
    def info(self) -> GpuInfo:
        """The device's name, compute capability and memory."""
        return self._info

    # ------------------------------------------------------------------------------------------- errors

    def _failed(self, call: str, error: Exception) -> MachineError:
        """Return the error to raise for one of the package's; `call` is what was asked for."""
        if isinstance(error, MachineError):
            return error
        if isinstance(error, KeyError):
            what = "the device is closed" if self._closed else "it was given back, or is another device's"
            return MachineError(f"{call}: {error.args[0]} is no handle of this device's: {what}")
        if isinstance(error, DriverError):
            call = error.call
        reason = self._reason(error)
        self._lost = self._lost or loses_context(reason)
        return failure(call, reason)

    def _reason(self, error: Exception) -> str:
        """Return a text that holds CUDA's name of the error, where it is one of CUDA's."""
        return str(error) or type(error).__name__

    def _short_of_memory(self, call: str, nbytes: int, reason: str) -> MachineError:
        """Return the error for an allocation of `nbytes` that failed."""
        with contextlib.suppress(MachineError):
            if error_name(reason) == "CUDA_ERROR_OUT_OF_MEMORY":
                reason += f"; {self.free_bytes():,} of the device's {self.total_bytes():,} bytes are free"
        self._lost = self._lost or loses_context(reason)
        return failure(f"{call} of {nbytes:,} bytes", reason)

    def _short_of_host_memory(self, call: str, nbytes: int, reason: str) -> MachineError:
        """Return the error for page-locked memory of `nbytes` that there was not."""
        self._lost = self._lost or loses_context(reason)
        short = error_name(reason) == "CUDA_ERROR_OUT_OF_MEMORY"
        fix = "The host has too little memory that can be page-locked: use smaller shapes, or end what else runs."
        return failure(f"{call} of {nbytes:,} bytes", reason, fix=fix if short else None)

    @contextlib.contextmanager
    def _calls(self, call: str) -> Iterator[None]:
        """Turn what the package raises into MachineError; for calls that need not be fast."""
        if self._closed:
            raise MachineError(f"{call}: the device is closed")
        try:
            yield
        except Exception as error:
            raise self._failed(call, error) from error

    def _give_back(self, call: str, things: dict[int, Any], handle: int, give: _Give) -> None:
        """Take a thing out of the books and give it back.

        Does nothing after `close`, which gave it back. Is silent where the context is lost, and the thing with it.
        """
        if self._closed:
            return
        lost = self._lost
        try:
            with self._scope():
                give(things.pop(handle))
        except Exception as error:
            told = self._failed(call, error)
            if not lost:
                raise told from error

    def _scope(self) -> AbstractContextManager[None]:
        """Return what a thing must be given back within."""
        return contextlib.nullcontext()

    # ------------------------------------------------------------------------------------------- graphs

    def begin_capture(self, stream: int) -> None:
        """Begin to record a stream's work."""
        with self._calls("begin_capture"):
            self._streams[stream]
            self._driver_graphs.begin(stream)
            self._captured.add(stream)

    def end_capture(self, stream: int) -> int:
        """End the recording; also where it fails, the stream is as before."""
        with self._calls("end_capture"):
            self._streams[stream]
            self._captured.discard(stream)
            graph = self._driver_graphs.end(stream)
        self._graphs.add(graph)
        return graph

    def launch(self, graph: int, stream: int) -> None:
        """Start a graph."""
        if graph not in self._graphs or stream not in self._streams:
            raise self._failed("launch", KeyError(stream if graph in self._graphs else graph))
        code = self._launch(graph, stream)
        if code:
            raise self._failed("launch", DriverError("cuGraphLaunch", self._library.error_name(code)))

    def destroy_graph(self, graph: int) -> None:
        """Destroy a graph."""
        things = {graph: graph} if graph in self._graphs else {}
        self._graphs.discard(graph)
        self._give_back("destroy_graph", things, graph, self._driver_graphs.destroy)

    def _leave_capture(self, stream: int) -> None:
        """Give up a capture that an error left open."""
        if stream in self._captured:
            with contextlib.suppress(MachineError):
                self.destroy_graph(self.end_capture(stream))

    # ------------------------------------------------------------------------------------------- the end

    def close(self) -> None:
        """Give back what is left, and the device."""
        if self._closed:
            return
        self._quietly(self.activate)
        for stream in list(self._captured):
            self._leave_capture(stream)
        left = self._left()
        for stream in list(self._streams):
            # Work that is under way may use what is freed now.
            self._quietly(self.sync, stream)
        for give, handles in (
            (self.destroy_graph, self._graphs),
            (self.destroy_event, self._events),
            (self.free, self._memory),
            (self._free_host_at, self._host),
            (self.destroy_stream, self._streams),
        ):
            for handle in list(handles):
                self._quietly(give, handle)
        self._closed = True
        self._release()
        if left:
            warnings.warn(f"GPU {self._device} was closed before {left} was given back", ResourceWarning, stacklevel=2)

    def _left(self) -> str:
        kinds = (
            ("stream", self._streams),
            ("event", self._events),
            ("graph", self._graphs),
            ("block of device memory", self._memory),
            ("block of page-locked memory", self._host),
        )
        return ", ".join(f"{name} ({len(things)})" for name, things in kinds if things)

    @staticmethod
    def _quietly(call: Callable[..., object], *args: Any) -> None:
        # What fails here was told where it first failed, or goes with the context.
        with contextlib.suppress(MachineError):
            call(*args)

    @abstractmethod
    def _release(self) -> None:
        """Give the device itself back."""

    @abstractmethod
    def _free_host_at(self, address: int) -> None: ...

    @abstractmethod
    def activate(self) -> None:
        """Make the device current."""

    @abstractmethod
    def sync(self, stream: int) -> None:
        """Wait for a stream."""

    @abstractmethod
    def free(self, pointer: int) -> None:
        """Free device memory."""

    @abstractmethod
    def destroy_event(self, event: int) -> None:
        """Destroy an event."""

    @abstractmethod
    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream."""

    @abstractmethod
    def free_bytes(self) -> int:
        """Read the free memory."""

    @abstractmethod
    def total_bytes(self) -> int:
        """Read the memory's size."""
