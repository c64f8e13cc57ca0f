"""Each implementation of `Cuda` on the software driver, for the tests of this folder."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import pytest

from mmtrt.runtimes.cuda import Cuda, HostBuffer, gpu

__all__ = ["Copies", "opener"]

NEEDS = {"core": "cuda.core", "pycuda": "pycuda.driver"}


def opener(name: str) -> Callable[[], Cuda]:
    pytest.importorskip(NEEDS[name], reason=f"{NEEDS[name]} is not installed")
    module = importlib.import_module(f"mmtrt.runtimes.cuda.{name}")

    def open_device() -> Cuda:
        info = gpu()
        assert info is not None
        device: Cuda = module.open_device(0, info)
        return device

    return open_device


class Copies:
    """A block of the device between two blocks of the host."""

    def __init__(self, cuda: Cuda, nbytes: int = 64, *, mapped: bool = False) -> None:
        self._cuda = cuda
        self.given: HostBuffer = cuda.alloc_host(nbytes, mapped=mapped)
        self.got: HostBuffer = cuda.alloc_host(nbytes)
        self.pointer = cuda.alloc(nbytes)
        self.got[:] = 0

    def enqueue(self, stream: int) -> None:
        self._cuda.h2d(self.pointer, self.given, stream)
        self._cuda.d2h(self.got, self.pointer, stream)

    def free(self) -> None:
        self._cuda.free(self.pointer)
        self._cuda.free_host(self.given)
        self._cuda.free_host(self.got)
