from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from mmtrt.engine import doctor
from mmtrt.engine.doctor import Finding, diagnose
from mmtrt.engine.flavours import Flavour
from mmtrt.errors import MachineError
from mmtrt.runtimes.cuda import GpuInfo

GPU = GpuInfo(name="NVIDIA H200", compute_capability="9.0", memory_mib=143771, driver="580.65")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Make a machine: which flavours and packages it has, whether a GPU."""

    def be(flavours: set[str], packages: set[str], gpu: GpuInfo | None) -> dict[str, Finding]:
        def probe(name: Any) -> Flavour:
            if name not in flavours:
                raise MachineError(f"{name} is not installed", fix=f"pip install {name}")
            return Flavour(name=name, version="1.0", needs_gpu_to_build=name == "tensorrt")

        monkeypatch.setattr(doctor, "probe", probe)
        monkeypatch.setattr(doctor, "gpu", lambda: gpu)
        monkeypatch.setattr(doctor, "gpu_trouble", lambda: "no driver")
        monkeypatch.setattr(doctor, "_version", lambda name: "2.0" if name in packages else None)
        monkeypatch.setenv("MMTRT_CACHE_DIR", str(tmp_path / "not" / "yet"))
        return {finding.name: finding for finding in diagnose()}

    return be


def abilities(found: dict[str, Finding]) -> dict[str, str]:
    return {name.removeprefix("can "): f.detail for name, f in found.items() if name.startswith("can ")}


def test_a_bare_machine_can_nothing_and_says_what_to_install(machine: Any) -> None:
    found = machine(set(), set(), None)
    assert set(abilities(found).values()) == {"no"}
    assert found["can export"].fix == "pip install 'mmtrt[export]'; pip install 'mmtrt[onnx]'"
    assert "no driver" in found["can run"].fix
    assert "mmtrt[cuda]" in found["can run"].fix
    assert found["GPU"].state == "missing"
    assert found["TensorRT-RTX"].fix == "pip install tensorrt-rtx"


def test_a_machine_without_a_gpu_builds_ahead_of_time(machine: Any) -> None:
    found = machine({"tensorrt-rtx", "tensorrt"}, {"torch", "onnx", "onnxruntime", "onnxscript"}, None)
    assert abilities(found) == {
        "export": "yes",
        "calibrate": "yes",
        "build ahead of time": "yes",
        "build here": "yes",
        "run": "no",
    }
    assert found["TensorRT"].state == "warn"
    assert "builds here: no" in found["TensorRT"].detail


def test_an_edge_device_runs_and_builds_and_exports_nothing(machine: Any) -> None:
    found = machine({"tensorrt"}, {"cuda-core"}, GPU)
    assert abilities(found) == {
        "export": "no",
        "calibrate": "no",
        "build ahead of time": "no",
        "build here": "yes",
        "run": "yes",
    }
    assert "H200, compute capability 9.0, 143771 MiB" in found["GPU"].detail
    assert found["TensorRT"].detail == "1.0: builds here: yes; runs here: yes"
    assert found["torch"].to_json()["state"] == "missing"


def test_this_very_machine_raises_nothing() -> None:
    names = [finding.name for finding in diagnose()]
    assert len(names) == len(set(names))
    assert {"Python", "mmtrt", "CPU", "memory", "cache", "GPU", "TensorRT", "TensorRT-RTX", "can run"} <= set(names)


def test_nothing_heavy_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(sys.modules)
    diagnose()
    assert not (set(sys.modules) - before) & {"torch", "onnx", "onnxruntime", "polygraphy", "transformers"}


@pytest.mark.parametrize(
    ("meminfo", "limit", "state", "detail"),
    [
        ("MemTotal:  8388608 kB", "max", "ok", "8.0 GiB"),
        ("MemTotal:  8388608 kB", str(1 << 30), "warn", "1.0 GiB"),
        ("", "", "warn", "unknown"),
    ],
)
def test_memory_is_the_containers_where_that_is_less(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, meminfo: str, limit: str, state: str, detail: str
) -> None:
    for name, text in (("_MEMORY", meminfo), ("_CGROUP", limit)):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        monkeypatch.setattr(doctor, name, path)
    found = doctor._memory()
    assert found.state == state
    assert detail in found.detail


def test_a_cache_that_is_full_or_closed_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MMTRT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: _Usage())
    assert "Free some space" in doctor._cache().fix
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert "can't be written" in doctor._cache().detail


class _Usage:
    free = 1 << 20
