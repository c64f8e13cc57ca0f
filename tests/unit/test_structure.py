"""What an engine's estimate can't tell is a build error, which placement falls back from."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmtrt.engine.estimate import Gpu
from mmtrt.engine.options import BuildOptions
from mmtrt.errors import BuildError
from mmtrt.pipeline import structure

GPU = Gpu(name="a GPU", memory_gb_s=1, fp32_tflops=1, fp16_tflops=1, int8_tops=1)


def test_an_open_axis_is_a_build_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def dynamic(*_: object) -> None:
        raise ValueError("'x' has a dynamic axis: [-1]")

    monkeypatch.setattr(structure, "engine_structure", dynamic)
    with pytest.raises(BuildError, match="can't be estimated: 'x' has a dynamic axis"):
        structure.EnginePrice(gpu=GPU, options=BuildOptions())(Path("m.onnx"), {})
