"""An implementation of the CUDA contract over stand-ins, and what its tests share."""

from __future__ import annotations

import gc
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import cuda_packages
import pycuda_package
import pytest
from fake_cuda import FakeCuda

from mmtrt.errors import MachineError
from mmtrt.runtimes.cuda import GpuInfo
from mmtrt.runtimes.cuda.core import CoreCuda
from mmtrt.runtimes.cuda.library import Library
from mmtrt.runtimes.cuda.pycuda import PyCuda

LIMIT = 1 << 16
ORIN = GpuInfo(name="Orin", compute_capability="8.7", memory_mib=7620, driver="540.4 (CUDA 12.6)")


class Stack:
    """An implementation, with the CUDA in memory below it, and what stands between."""

    def __init__(self, kind: str, *, shares_memory: bool = False) -> None:
        self.fake = FakeCuda(LIMIT, shares_memory=shares_memory)
        self.library = cuda_packages.LibCuda(self.fake)
        library = Library(self.library)
        self.driver: Any = None
        if kind == "core":
            self.driver = cuda_packages.Driver(self.fake)
            self.cuda: Any = CoreCuda(cuda_packages.Core(self.fake), self.driver, 0, ORIN, library)
        elif kind == "pycuda":
            self.driver = pycuda_package.PycudaDriver(self.fake, self.library)
            self.cuda = PyCuda(self.driver, 0, ORIN, library)
        else:
            self.cuda = self.fake

    def nothing_left(self) -> bool:
        gc.collect()
        return not self.fake.left_over() and not self.library.plain_graphs


def closing(stack: Stack) -> Iterator[Stack]:
    yield stack
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        stack.cuda.close()


def filled(cuda: Any, values: Any) -> Any:
    buffer = cuda.alloc_host(len(values))
    buffer[:] = values
    return buffer


def take_all(cuda: Any) -> dict[str, Any]:
    stream = cuda.create_stream()
    cuda.begin_capture(stream)
    graph = cuda.end_capture(stream)
    return {
        "stream": stream,
        "graph": graph,
        "event": cuda.create_event(),
        "pointer": cuda.alloc(8),
        "host": cuda.alloc_host(8),
    }


def told_by(call: Callable[[], Any]) -> tuple[str, str]:
    """Return what an error says and its mend, as text: a traceback holds objects of pycuda that free themselves."""
    with pytest.raises(MachineError) as caught:
        call()
    told = caught.value.message, str(caught.value.fix)
    del caught
    gc.collect()
    return told


def in_thread(work: Callable[[], Any]) -> Any:
    answers: list[Any] = []

    def run() -> None:
        try:
            answers.append(work())
        except BaseException as error:  # noqa: BLE001
            answers.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(answers[0], BaseException):
        raise answers[0]
    return answers[0]
