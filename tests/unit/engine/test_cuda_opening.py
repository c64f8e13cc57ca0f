"""Choosing the GPU and the package that reaches it, and what the driver itself tells."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import mmtrt.runtimes.cuda as contract
from mmtrt.errors import MachineError
from mmtrt.runtimes.cuda import GpuInfo, open_cuda
from mmtrt.runtimes.cuda import driver as drivers
from mmtrt.runtimes.cuda.core import CoreCuda
from mmtrt.runtimes.cuda.library import Library
from mmtrt.runtimes.cuda.pycuda import PyCuda

ORIN = GpuInfo(name="Orin", compute_capability="8.7", memory_mib=7620, driver="540.4 (CUDA 12.6)")


# ----------------------------------------------------------------------------------------------- choosing


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch, fakes: None) -> Any:
    monkeypatch.setattr(contract, "gpu", lambda: ORIN)
    monkeypatch.setattr(contract, "gpus", lambda: (ORIN,))
    for name in ("cuda.core", "cuda.bindings.driver", "pycuda.driver", "pycuda"):
        monkeypatch.setitem(sys.modules, name, None)
    packages = importlib.import_module("cuda_packages")
    fake = importlib.import_module("fake_cuda").FakeCuda()
    library = packages.LibCuda(fake)
    for name in ("core", "pycuda"):
        monkeypatch.setattr(f"mmtrt.runtimes.cuda.{name}.Library", lambda: Library(library))
    return SimpleNamespace(
        core=packages.Core(fake),
        driver=packages.Driver(fake),
        pycuda=lambda: importlib.import_module("pycuda_package").PycudaDriver(fake, library),
    )


def module(thing: Any) -> Any:
    made = ModuleType("stand_in")
    made.__dict__.update({name: getattr(thing, name) for name in dir(thing) if name.strip("_") == name})
    made.__dict__["__version__"] = getattr(thing, "__version__", "")
    return made


def put_core(monkeypatch: pytest.MonkeyPatch, machine: Any) -> None:
    monkeypatch.setitem(sys.modules, "cuda", module(SimpleNamespace(__path__=[])))
    monkeypatch.setitem(sys.modules, "cuda.core", module(machine.core))
    monkeypatch.setitem(sys.modules, "cuda.bindings", module(SimpleNamespace(__path__=[])))
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", module(machine.driver))


def test_cuda_core_comes_first_then_pycuda(with_gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", module(SimpleNamespace(__path__=[])))
    monkeypatch.setitem(sys.modules, "pycuda.driver", module(with_gpu.pycuda()))
    opened = open_cuda()
    assert isinstance(opened, PyCuda)
    opened.close()
    put_core(monkeypatch, with_gpu)
    opened = open_cuda()
    assert isinstance(opened, CoreCuda)
    assert opened.info == ORIN


def test_a_cuda_core_that_is_too_old_is_passed_by_and_told(with_gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put_core(monkeypatch, with_gpu)
    monkeypatch.setattr(sys.modules["cuda.core"], "__version__", "0.7.0")
    with pytest.raises(MachineError, match=r"cuda-core 0\.7\.0 is older than 1\.0"):
        open_cuda()


def test_a_device_that_cuda_core_does_not_open_says_why_and_what_to_install(
    with_gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpu.core.refuses = True
    put_core(monkeypatch, with_gpu)
    with pytest.raises(
        MachineError, match=r"GPU 0 \(Orin\) can't be opened by cuda-core: CUDA_ERROR_INVALID"
    ) as caught:
        open_cuda()
    # The driver of this Orin is for CUDA 12, the bindings for 13.
    assert "pip install 'cuda-bindings==12.*'" in str(caught.value.fix)
    monkeypatch.setattr(sys.modules["cuda.bindings.driver"], "CUDA_VERSION", 12090)
    with pytest.raises(MachineError) as caught:
        open_cuda()
    assert caught.value.fix is None


@pytest.mark.parametrize("device", [-1, 1])
def test_a_gpu_that_is_not_there_lists_those_that_are(with_gpu: Any, device: int) -> None:
    with pytest.raises(MachineError, match=rf"there is no GPU {device}; CUDA counts 0: Orin"):
        open_cuda(device)


def test_with_neither_package_it_says_what_to_install(with_gpu: Any) -> None:
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
    assert probe.gpus() == (probe.gpu(),)


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
    assert probe.gpus() == ()
    assert words in probe.gpu_trouble()
