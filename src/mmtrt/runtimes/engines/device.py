"""The GPU of an engine, kept as long as somebody holds memory of it: the session, or what it handed out."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np

from mmtrt.errors import MachineError, MmtrtError
from mmtrt.runtimes.cuda import Cuda, HostBuffer
from mmtrt.runtimes.dlpack import CUDA, capsule_of
from mmtrt.tensors import Array, tensor_bytes

__all__ = ["Device", "DeviceArray", "PinnedMemory", "recording", "when_allowed"]

_ending = sys.is_finalizing
"""Tells that Python goes: then nothing can be called any more, and the driver takes back what there is."""


class _Recording(threading.local):
    on = False


_recording = _Recording()
_postponed: deque[Callable[[], None]] = deque()


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """Have this thread give nothing back meanwhile: whatever Python's collector finds then, of any session, waits."""
    _recording.on = True
    try:
        yield
    finally:
        _recording.on = False
        while _postponed:
            with contextlib.suppress(MmtrtError):
                _postponed.popleft()()


def when_allowed(work: Callable[[], None]) -> None:
    """Call what frees memory of the device: now, or where this thread records a graph, after that."""
    if _recording.on:
        _postponed.append(work)
    else:
        work()


class Device:
    """CUDA, which closes when its owner and all that it lent are gone.

    What is lent comes back whenever Python's collector likes, also while a graph is recorded, when nothing may be
    freed: so it waits for `tidy`, until the owner is gone. In a forked child, where CUDA is not, it does nothing.
    """

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self._process = os.getpid()
        self._lent = 0
        self._owned = True
        self._lock = threading.RLock()
        self._due: deque[Callable[[], None]] = deque()

    @property
    def inherited(self) -> bool:
        """Whether this process is a child of the one that opened it."""
        return os.getpid() != self._process

    def check_process(self) -> None:
        """Raise MachineError in a child."""
        if self.inherited:
            raise MachineError(
                f"the session was opened in process {self._process}, and a GPU's memory does not follow into a child",
                fix="Open a session in each process; with multiprocessing choose the start method 'spawn'.",
            )

    def lend(self) -> None:
        """Note that something of it is in other hands."""
        with self._lock:
            self._lent += 1

    def take_back(self, work: Callable[[], None]) -> None:
        """Note that what was lent is given back by `work`, which is called when it may be."""
        self._due.append(work)
        if not self._owned:
            when_allowed(self.tidy)

    def tidy(self) -> None:
        """Give back what is due; called by a thread that records nothing. One that fails does not keep the others."""
        while self._due and not self.inherited:
            with self._lock, ExitStack() as stack:
                # They are called from the last to the first.
                while self._due:
                    stack.callback(self._came_back)
                    stack.callback(self._due.popleft())
                stack.callback(self.cuda.activate)

    def close(self) -> None:
        """End the owner's hold."""
        with self._lock, ExitStack() as stack:
            self._owned = False
            stack.callback(self._close_if_done)
            stack.callback(self.tidy)

    def _came_back(self) -> None:
        self._lent -= 1
        self._close_if_done()

    def _close_if_done(self) -> None:
        if not self._owned and not self._lent:
            self.cuda.close()


class PinnedMemory:
    """Pinned memory in other hands: arrays over it keep it alive, also when its session is closed."""

    def __init__(self, device: Device, host: HostBuffer) -> None:
        self._device = device
        self._host = host
        self.__array_interface__ = dict(host.__array_interface__)
        device.lend()

    def view(self, dtype: str, shape: tuple[int, ...]) -> Array:
        """Return its first bytes as a tensor."""
        whole: Array = np.asarray(self)
        return whole[: tensor_bytes(dtype, shape)].view(dtype).reshape(shape)

    def __del__(self) -> None:
        cuda, host = self._device.cuda, self._host
        if not _ending():
            self._device.take_back(lambda: cuda.free_host(host))


class DeviceArray:
    """An output that stays on the GPU, ready to be read; it is freed when nobody holds it any more.

    It speaks DLPack: `torch.from_dlpack(array)`, `cupy.from_dlpack(array)`, or an input of another run.
    """

    def __init__(self, device: Device, dtype: str, shape: tuple[int, ...]) -> None:
        self._memory = _DeviceMemory(device, tensor_bytes(dtype, shape))
        self._device = device
        self.dtype = dtype
        self.shape = shape

    @property
    def pointer(self) -> int:
        """Where it lies."""
        return self._memory.pointer

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self._device.cuda.device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        if dl_device not in {None, self.__dlpack_device__()} or copy:
            raise BufferError("the tensor is given where it lies, and as it lies")
        held = [self._memory]
        return capsule_of(
            pointer=self.pointer,
            shape=self.shape,
            dtype=self.dtype,
            device=self.__dlpack_device__(),
            done=held.clear,
            versioned=max_version is not None and max_version[0] >= 1,
        )


class _DeviceMemory:
    def __init__(self, device: Device, nbytes: int) -> None:
        self.pointer = 0
        self._device = device
        self.pointer = device.cuda.alloc(max(nbytes, 1))
        device.lend()

    def __del__(self) -> None:
        cuda, pointer = self._device.cuda, self.pointer
        if pointer and not _ending():
            self._device.take_back(lambda: cuda.free(pointer))
