"""`mmtrt check` of an engine on the emulated GPU: the verdict is the engine's own, within its profile."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from plans import make_plan

from mmtrt.tensors import ShapeRange


@pytest.fixture
def check(command: Callable[..., tuple[object, Any, str]]) -> Callable[..., tuple[object, Any, str]]:
    """Run `mmtrt check --json`, judging 40 samples anew."""
    return partial(command, "check", "--count", 40, "--no-cache")


def damaged(model: Path, target: Path) -> Path:
    """Write the model with its largest weight turned over."""
    proto = onnx.load(str(model))
    largest = max(proto.graph.initializer, key=lambda weight: int(np.prod(weight.dims)))
    largest.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(largest), largest.name))
    onnx.save(proto, str(target))
    return target


@pytest.mark.parametrize("flavor", ["tensorrt", "tensorrt-rtx"])
def test_an_engine_passes_against_its_onnx_at_every_size_of_its_profile(
    flavor: str, tiny: Path, tmp_path: Path, check: Callable[..., Any]
) -> None:
    # Narrower than what samples are stacked to, and than what the ONNX allows.
    profile = {
        "image": ShapeRange(min=(1, 3, 16, 16), opt=(2, 3, 16, 16), max=(5, 3, 16, 16)),
        "ids": ShapeRange(min=(1, 2), opt=(2, 5), max=(5, 8)),
        "mask": ShapeRange(min=(1, 2), opt=(2, 5), max=(5, 8)),
    }
    engine = make_plan(tiny, tmp_path / "tiny.engine", flavor=flavor, profile=profile)
    code, told, err = check(engine, "--against", tiny)
    assert (code, told["verdict"], told["samples"]) == (0, "pass", 40), err
    assert "Emulated GPU" in told["candidate"]["runs"]
    assert {case["kind"] for case in told["stress"]} >= {"corner", "batch", "determinism", "batch-invariance"}


def test_an_engine_of_other_weights_fails(tiny: Path, tmp_path: Path, check: Callable[..., Any]) -> None:
    engine = make_plan(damaged(tiny, tmp_path / "other.onnx"), tmp_path / "other.engine")
    code, told, err = check(engine, "--against", tiny)
    assert (code, told["verdict"]) == (1, "fail"), err
