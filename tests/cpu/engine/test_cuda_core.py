"""The real cuda-core package on a machine without a driver: it says so, and it has the names that are called."""

from __future__ import annotations

import pytest

from mmtrt.errors import MachineError
from mmtrt.runtimes.cuda import GpuInfo, gpu
from mmtrt.runtimes.cuda.core import open_device

core = pytest.importorskip("cuda.core", reason="cuda-core is not installed")
driver = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")


@pytest.mark.skipif(gpu() is not None, reason="this machine has a GPU")
def test_the_device_can_not_be_opened() -> None:
    info = GpuInfo(name="none", compute_capability="0.0", memory_mib=0, driver="none")
    with pytest.raises(MachineError, match=r"GPU 0 \(none\) can't be opened by cuda-core"):
        open_device(0, info)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("Device", ["set_current", "properties", "create_stream", "create_event"]),
        ("Stream", ["handle", "sync", "record", "wait", "close"]),
        ("Event", ["handle", "sync", "is_done", "close", "__sub__"]),
    ],
)
def test_cuda_core_has_the_names_that_are_called(kind: str, names: list[str]) -> None:
    assert [name for name in names if not hasattr(getattr(core, kind), name)] == []


def test_an_event_is_asked_to_keep_the_time_by_a_name_that_cuda_core_knows() -> None:
    assert core.EventOptions(timing_enabled=True).timing_enabled is True


def test_the_driver_has_the_names_that_are_called_and_no_error_is_false() -> None:
    names = ["cuMemAlloc", "cuMemFree", "cuMemHostAlloc", "cuMemHostGetDevicePointer", "cuMemFreeHost"]
    names += ["cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuMemcpyDtoDAsync", "cuMemGetInfo", "CUDA_VERSION"]
    assert [name for name in names if not hasattr(driver, name)] == []
    assert not driver.CUresult.CUDA_SUCCESS
    assert driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY
    assert driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY.name == "CUDA_ERROR_OUT_OF_MEMORY"
