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
from mmtrt.runtimes import tensorrt as runner
from mmtrt.runtimes.cuda import GpuInfo

FAKES = Path(__file__).parent / "fakes"
ORIN = GpuInfo(name="Orin", compute_capability="8.7", memory_mib=7620, driver="540.4 (CUDA 12.6)")


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the stand-ins for `tensorrt` and for CUDA on the path, also of processes begun from here."""
    monkeypatch.syspath_prepend(str(FAKES))
    yield
    for name in ("tensorrt", "fake_cuda"):
        sys.modules.pop(name, None)


@pytest.fixture
def orin(monkeypatch: pytest.MonkeyPatch) -> GpuInfo:
    """Pretend that there is a GPU."""
    for module in (flavours, runner, builds):
        monkeypatch.setattr(module, "gpu", lambda: ORIN)
    return ORIN


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that there is none, on a machine with one too."""
    for module in (flavours, runner, builds, cuda):
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
