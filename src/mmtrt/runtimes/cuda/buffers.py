"""Memory of one tensor on both sides of the bus, kept from call to call."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmtrt.runtimes.cuda import Cuda, HostBuffer
from mmtrt.tensors import Array

__all__ = ["Buffer"]


class Buffer:
    """Device memory and page-locked host memory for one tensor.

    It grows when a larger tensor comes and never shrinks; `free` gives both back. Between `write` or `resize`
    and the next, `pointer` stays the same.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._host: HostBuffer | None = None
        self._nbytes = 0
        self.pointer = 0

    @property
    def capacity(self) -> int:
        """Bytes that it holds without growing."""
        return 0 if self._host is None else self._host.nbytes

    def resize(self, nbytes: int) -> None:
        """Make room for a tensor of `nbytes`; what it held is lost. MachineError where there is no room."""
        # TensorRT takes no null pointer, also for a tensor without elements.
        if max(nbytes, 1) > self.capacity:
            self.free()
            self.pointer = self._cuda.alloc(max(nbytes, 1))
            try:
                self._host = self._cuda.alloc_host(max(nbytes, 1))
            except BaseException:
                self.free()
                raise
        self._nbytes = nbytes

    def write(self, array: Array) -> None:
        """Put an array into the host's side."""
        self.resize(array.nbytes)
        self._held[...] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    def read(self, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> Array:
        """Return a copy of the host's side."""
        return self._held.view(dtype).reshape(shape).copy()

    def upload(self, stream: int) -> None:
        """Start to copy host to device."""
        if self._nbytes:
            self._cuda.h2d(self.pointer, self._held, stream)

    def download(self, stream: int) -> None:
        """Start to copy device to host."""
        if self._nbytes:
            self._cuda.d2h(self._held, self.pointer, stream)

    def free(self) -> None:
        """Give the memory back; calling it twice is fine."""
        pointer, host = self.pointer, self._host
        self.pointer, self._host, self._nbytes = 0, None, 0
        if pointer:
            self._cuda.free(pointer)
        if host is not None:
            self._cuda.free_host(host)

    @property
    def _held(self) -> HostBuffer:
        if self._host is None:
            raise RuntimeError("the buffer has no memory yet")
        return self._host[: self._nbytes]
