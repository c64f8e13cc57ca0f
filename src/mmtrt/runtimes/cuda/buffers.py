"""Memory of one tensor on both sides of the bus, kept from call to call."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmtrt.runtimes.cuda import Cuda, HostBuffer
from mmtrt.tensors import Array

__all__ = ["Buffer"]


class Buffer:
    """Device memory and page-locked host memory for one tensor; on a board that shares memory, one for both sides.

    It grows to the largest tensor that came and never shrinks; `free` gives all back. While `pointer` stays the same,
    a graph that was captured with it may be launched.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._mapped = cuda.shares_memory
        self._host: HostBuffer | None = None
        self._held: HostBuffer = np.empty(0, np.uint8)
        self._view: Array = self._held
        self._lent = False
        self.pointer = 0

    @property
    def capacity(self) -> int:
        """Bytes that it holds without growing."""
        return 0 if self._host is None else self._host.nbytes

    def resize(self, nbytes: int) -> None:
        """Make room for a tensor of `nbytes`; where it grows, what it held is lost, and no work may be using it.

        MachineError where there is no room; the buffer is empty then.
        """
        if self._host is not None and nbytes == self._held.nbytes:
            return
        if self._host is None or nbytes > self._host.nbytes:
            self.free()
            # TensorRT takes no null pointer, also for a tensor without elements.
            host = self._allocate(max(nbytes, 1))
        else:
            host = self._host
        self._held = self._view = host[:nbytes]

    def view(self, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> Array:
        """Return the host's side as an array, to fill or read in place; it holds until the buffer grows or is freed."""
        held = self._view
        if held.shape != shape or held.dtype != dtype:
            if self._host is None:
                raise RuntimeError("the buffer has no memory yet")
            held = self._view = self._held.view(dtype).reshape(shape)
        return held

    def write(self, array: Array) -> None:
        """Put an array, of any strides, into the host's side."""
        self.resize(array.nbytes)
        np.copyto(self.view(array.dtype, array.shape), array)

    def read(self, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> Array:
        """Return a copy of the host's side."""
        return self.view(dtype, shape).copy()

    def upload(self, stream: int) -> None:
        """Start to copy host to device; nothing where both are one."""
        if not self._mapped and self._held.nbytes:
            self._cuda.h2d(self.pointer, self._held, stream)

    def download(self, stream: int) -> None:
        """Start to copy device to host; nothing where both are one."""
        if not self._mapped and self._held.nbytes:
            self._cuda.d2h(self._held, self.pointer, stream)

    def lend_host(self) -> HostBuffer:
        """Return the host's side, all of it, to whoever frees it; it stays in use here until `free`."""
        if self._host is None:
            raise RuntimeError("the buffer has no memory yet")
        self._lent = True
        return self._host

    def free(self) -> None:
        """Give the memory back; calling it twice is fine."""
        pointer, host = self.pointer, None if self._lent else self._host
        if self._host is None and not pointer:
            return
        self.pointer, self._host, self._lent = 0, None, False
        self._held = self._view = np.empty(0, np.uint8)
        try:
            if pointer and not self._mapped:
                self._cuda.free(pointer)
        finally:
            if host is not None:
                self._cuda.free_host(host)

    def _allocate(self, nbytes: int) -> HostBuffer:
        try:
            if not self._mapped:
                self.pointer = self._cuda.alloc(nbytes)
            self._host = self._cuda.alloc_host(nbytes, mapped=self._mapped)
            if self._mapped:
                self.pointer = self._cuda.device_pointer(self._host)
        except BaseException:
            self.free()
            raise
        return self._host
