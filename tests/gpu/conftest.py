from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mmtrt.runtimes.cuda import GpuInfo, gpu_trouble
from mmtrt.runtimes.cuda import gpu as find_gpu

sys.path.insert(0, str(Path(__file__).parents[1] / "cpu" / "engine"))


@pytest.fixture(scope="session")
def gpu() -> GpuInfo:
    """Return the GPU; a test that asks for it is skipped, with the reason, where there is none."""
    found = find_gpu()
    if found is None:
        pytest.skip(f"no GPU: {gpu_trouble()}")
    return found
