from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmtrt.engine import build as builds
from mmtrt.engine import flavours
from mmtrt.runtimes import cuda
from mmtrt.runtimes.cuda import GpuInfo

FAKES = Path(__file__).parent / "fakes"
sys.path.insert(0, str(Path(__file__).parent))
ORIN = GpuInfo(name="Orin", compute_capability="8.7", memory_mib=7620, driver="540.4 (CUDA 12.6)")


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the stand-ins for `tensorrt` and for CUDA on the path, also of processes begun from here."""
    monkeypatch.syspath_prepend(str(FAKES))
    yield
    for name in ("tensorrt", "fake_cuda", "fake_work", "cuda_packages", "pycuda_package", "cuda_stack"):
        sys.modules.pop(name, None)


@pytest.fixture
def orin(monkeypatch: pytest.MonkeyPatch) -> GpuInfo:
    """Pretend that there is a GPU."""
    for module in (flavours, builds):
        monkeypatch.setattr(module, "gpu", lambda: ORIN)
    return ORIN


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that there is none, on a machine with one too."""
    for module in (flavours, builds, cuda):
        monkeypatch.setattr(module, "gpu", lambda: None)


@pytest.fixture
def graph(tmp_path: Path) -> Any:
    """Write the JSON that the stand-in reads as an ONNX."""

    def write(**changes: Any) -> Path:
        data = {
            "inputs": {"x": {"shape": [-1, 4], "names": ["batch", ""]}},
            "outputs": {"y": {"shape": [-1, 4]}},
            **changes,
        }
        path = tmp_path / "model.onnx"
        path.write_text(json.dumps(data), encoding="utf-8")
        return path

    return write


@pytest.fixture(params=["core", "pycuda", "in memory"])
def stack(request: pytest.FixtureRequest, fakes: None) -> Any:
    """Yield each implementation of CUDA, over stand-ins for what is below, and the one in memory."""
    import cuda_stack

    yield from cuda_stack.closing(cuda_stack.Stack(request.param))


@pytest.fixture(params=["core", "pycuda"])
def package(request: pytest.FixtureRequest, fakes: None) -> Any:
    """Yield each implementation over a package."""
    import cuda_stack

    yield from cuda_stack.closing(cuda_stack.Stack(request.param))
