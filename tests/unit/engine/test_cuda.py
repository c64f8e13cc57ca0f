"""One test body for each implementation of the CUDA contract, over stand-ins for the packages below them."""

# ruff: noqa: ARG002, ARG005, N802, N815 -- names and signatures are the CUDA API's own

from __future__ import annotations

import ctypes
import enum
import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import mmtrt.runtimes.cuda as contract
from mmtrt.errors import MachineError
from mmtrt.runtimes.cuda import Cuda, GpuInfo, open_cuda
from mmtrt.runtimes.cuda import driver as drivers
from mmtrt.runtimes.cuda.bindings import BindingsCuda
from mmtrt.runtimes.cuda.pycuda import PyCuda

Codes = enum.IntEnum("Codes", {"cudaSuccess": 0, "cudaErrorInvalidValue": 1, "cudaErrorMemoryAllocation": 2})
LIMIT = 1 << 16


class Runtime:
    """The CUDA runtime API as cuda-bindings gives it, over this process's own memory."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)

    def __init__(self) -> None:
        self.blocks: dict[int, Any] = {}
        self.handles: set[int] = set()
        self.device = -1

    def cudaSetDevice(self, device: int) -> tuple[Any]:
        self.device = device
        return (Codes.cudaSuccess,)

    def cudaMalloc(self, nbytes: int) -> tuple[Any, Any]:
        if nbytes > LIMIT:
            return Codes.cudaErrorMemoryAllocation, None
        block = (ctypes.c_uint8 * nbytes)()
        self.blocks[ctypes.addressof(block)] = block
        return Codes.cudaSuccess, ctypes.addressof(block)

    def cudaFree(self, pointer: int) -> tuple[Any]:
        return (Codes.cudaSuccess if self.blocks.pop(pointer, None) else Codes.cudaErrorInvalidValue,)

    cudaMallocHost, cudaFreeHost = cudaMalloc, cudaFree

    def cudaMemcpyAsync(self, target: int, source: int, nbytes: int, kind: Any, stream: int) -> tuple[Any]:
        assert kind in {1, 2}
        assert stream in self.handles
        ctypes.memmove(target, source, nbytes)
        return (Codes.cudaSuccess,)

    def _create(self, *_: Any) -> tuple[Any, int]:
        handle = len(self.handles) + 1000
        self.handles.add(handle)
        return Codes.cudaSuccess, handle

    def _destroy(self, handle: int) -> tuple[Any]:
        self.handles.remove(handle)
        return (Codes.cudaSuccess,)

    cudaStreamCreateWithFlags, cudaEventCreate = _create, _create
    cudaStreamDestroy, cudaEventDestroy = _destroy, _destroy

    def _nothing(self, *_: Any) -> tuple[Any]:
        return (Codes.cudaSuccess,)

    cudaStreamSynchronize, cudaEventRecord = _nothing, _nothing

    def cudaEventElapsedTime(self, start: int, stop: int) -> tuple[Any, float]:
        return Codes.cudaSuccess, 0.5

    def cudaMemGetInfo(self) -> tuple[Any, int, int]:
        return Codes.cudaSuccess, LIMIT, LIMIT


class Driver:
    """pycuda's driver, over this process's own memory."""

    class Error(Exception):
        pass

    def __init__(self) -> None:
        self.contexts = 0
        self.device_memory: dict[int, np.ndarray[Any, Any]] = {}
        self.Stream = lambda flags=0: SimpleNamespace(handle=77, synchronize=lambda: None)
        self.Event = lambda: SimpleNamespace(record=lambda stream: None, time_till=lambda stop: 0.5)

    def init(self) -> None: ...

    def Device(self, index: int) -> Any:
        def push() -> None:
            self.contexts += 1

        def pop() -> None:
            self.contexts -= 1

        return SimpleNamespace(retain_primary_context=lambda: SimpleNamespace(push=push, pop=pop))

    def mem_alloc(self, nbytes: int) -> Any:
        if nbytes > LIMIT:
            raise self.Error("out of memory")
        block = np.zeros(nbytes, np.uint8)
        pointer = block.ctypes.data
        self.device_memory[pointer] = block
        memory = self.device_memory

        class Allocation:
            def __int__(self) -> int:
                return pointer

            def free(self) -> None:
                del memory[pointer]

        return Allocation()

    def pagelocked_empty(self, nbytes: int, dtype: Any) -> Any:
        class Base(np.ndarray):  # type: ignore[type-arg]
            def free(self) -> None:
                self[...] = 0

        return np.zeros(nbytes, dtype).view(Base)[:]

    def memcpy_htod_async(self, pointer: int, buffer: Any, stream: Any) -> None:
        self.device_memory[pointer][: buffer.nbytes] = buffer

    def memcpy_dtoh_async(self, buffer: Any, pointer: int, stream: Any) -> None:
        buffer[:] = self.device_memory[pointer][: buffer.nbytes]

    def mem_get_info(self) -> tuple[int, int]:
        return LIMIT, LIMIT


@pytest.fixture(params=["bindings", "pycuda", "in memory"])
def cuda(request: pytest.FixtureRequest, fakes: None) -> Any:
    if request.param == "bindings":
        return BindingsCuda(Runtime())
    if request.param == "pycuda":
        return PyCuda(Driver())
    return importlib.import_module("fake_cuda").FakeCuda(LIMIT)


def test_bytes_come_back_from_the_device(cuda: Any) -> None:
    assert isinstance(cuda, Cuda)
    stream = cuda.create_stream()
    pointer = cuda.alloc(16)
    source, target = cuda.alloc_host(16), cuda.alloc_host(16)
    source[:] = np.arange(16)
    cuda.h2d(pointer, source[:8], stream)
    cuda.d2h(target[:8], pointer, stream)
    cuda.sync(stream)
    assert target[:8].tolist() == list(range(8))
    for buffer in (source, target):
        cuda.free_host(buffer)
    cuda.free(pointer)
    cuda.destroy_stream(stream)
    cuda.close()


def test_events_keep_the_time(cuda: Any) -> None:
    stream, start, stop = cuda.create_stream(), cuda.create_event(), cuda.create_event()
    cuda.record(start, stream)
    cuda.record(stop, stream)
    cuda.sync(stream)
    assert cuda.elapsed_ms(start, stop) >= 0
    for event in (start, stop):
        cuda.destroy_event(event)
    cuda.destroy_stream(stream)


def test_too_much_memory_is_a_machine_error(cuda: Any) -> None:
    assert cuda.free_bytes() == LIMIT
    with pytest.raises(MachineError, match="memory"):
        cuda.alloc(LIMIT + 1)


def test_an_error_names_the_call() -> None:
    with pytest.raises(MachineError, match="cudaFree failed: cudaErrorInvalidValue") as caught:
        BindingsCuda(Runtime()).free(1)
    assert caught.value.fix is None


def test_pycuda_pops_the_context_that_it_pushed() -> None:
    driver = Driver()
    cuda = PyCuda(driver)
    assert driver.contexts == 1
    cuda.close()
    assert driver.contexts == 0


# ----------------------------------------------------------------------------------------------- choosing


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    info = GpuInfo(name="Orin", compute_capability="8.7", memory_mib=7620, driver="x")
    monkeypatch.setattr(contract, "gpu", lambda: info)
    for name in ("cuda.bindings.runtime", "pycuda.driver", "pycuda"):
        monkeypatch.setitem(sys.modules, name, None)


def module(thing: Any) -> Any:
    made = ModuleType("stand_in")
    made.__dict__.update({name: getattr(thing, name) for name in dir(thing) if not name.startswith("__")})
    return made


def test_bindings_come_first_then_pycuda(with_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", module(SimpleNamespace(__path__=[])))
    monkeypatch.setitem(sys.modules, "pycuda.driver", module(Driver()))
    assert isinstance(open_cuda(), PyCuda)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", module(Runtime()))
    assert isinstance(open_cuda(), BindingsCuda)


def test_with_neither_package_it_says_what_to_install(with_gpu: None) -> None:
    with pytest.raises(MachineError, match=r"mmtrt\[cuda\]") as caught:
        open_cuda()
    assert "pycuda:" in caught.value.message


def test_without_a_gpu_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "gpu", lambda: None)
    monkeypatch.setattr(contract, "gpu_trouble", lambda: "the driver sees no GPU")
    with pytest.raises(MachineError, match="the driver sees no GPU"):
        open_cuda()


# ------------------------------------------------------------------------------------------ asking the driver


class LibCuda:
    """libcuda.so.1 with one Orin; `codes` maps a function to the error that it answers."""

    def __init__(self, codes: dict[str, int] | None = None, count: int = 1, lacks: str = "") -> None:
        self.codes, self.count, self.lacks = codes or {}, count, lacks

    def __getattr__(self, function: str) -> Any:
        if function == self.lacks:
            raise AttributeError(function)

        def call(*args: Any) -> int:
            values = {"cuDeviceGetCount": self.count, "cuDeviceGet": 0, "cuDriverGetVersion": 12060}
            if function == "cuDeviceGetName":
                args[0].value = b"Orin"
            elif function == "cuDeviceGetAttribute":
                args[0]._obj.value = {75: 8, 76: 7}[args[1]]
            elif function == "cuDeviceTotalMem_v2":
                args[0]._obj.value = 7620 << 20
            elif function != "cuInit":
                args[0]._obj.value = values[function]
            return self.codes.get(function, 0)

        return call


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    def be(library: Any, version: str | None = None) -> Any:
        def load(name: str) -> Any:
            assert name == "libcuda.so.1"
            if isinstance(library, Exception):
                raise library
            return library

        path = tmp_path / "version"
        if version is not None:
            path.write_text(version, encoding="utf-8")
        monkeypatch.setattr(drivers.ctypes, "CDLL", load)
        monkeypatch.setattr(drivers, "_DRIVER_VERSION", path)
        return drivers

    return be


@pytest.mark.parametrize(
    ("version", "shown"),
    [
        (None, "CUDA 12.6"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun", "580.65.06 (CUDA 12.6)"),
        ("what is this", "CUDA 12.6"),
    ],
)
def test_the_driver_tells_of_the_gpu(driver: Any, version: str | None, shown: str) -> None:
    probe = driver(LibCuda(), version)
    assert probe.gpu() == GpuInfo(name="Orin", compute_capability="8.7", memory_mib=7620, driver=shown)
    assert probe.gpu_trouble() == ""


@pytest.mark.parametrize(
    ("library", "words"),
    [
        (OSError("libcuda.so.1: cannot open shared object file"), "no NVIDIA driver"),
        (OSError("libcuda.so.1: file too short"), "file too short"),
        (LibCuda({"cuInit": 999}), "unknown reason (cuInit said 999)"),
        (LibCuda({"cuInit": 803}), "do not match"),
        (LibCuda({"cuInit": 12345}), "the driver failed (cuInit said 12345)"),
        (LibCuda({"cuDeviceGetName": 101}), "cuDeviceGetName said 101"),
        (LibCuda(count=0), "the driver sees no GPU"),
        (LibCuda(lacks="cuDeviceTotalMem_v2"), "lacks cuDeviceTotalMem_v2"),
    ],
)
def test_a_broken_driver_is_told_and_never_raised(driver: Any, library: Any, words: str) -> None:
    probe = driver(library)
    assert probe.gpu() is None
    assert words in probe.gpu_trouble()
