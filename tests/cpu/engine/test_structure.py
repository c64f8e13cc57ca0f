"""What an ONNX becomes in an engine, as TensorRT-RTX's builder tells it for one set of sizes."""

from __future__ import annotations

from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest

from mmtrt.engine.targets import load_target
from mmtrt.errors import BuildError
from mmtrt.pipeline.structure import engine_structure
from mmtrt.precision.convert import convert
from mmtrt.precision.options import PrecisionOptions
from mmtrt.samples import SampleSet

pytest.importorskip("tensorrt_rtx")
GPU = load_target("any-rtx").gpu


def test_sizes_scale_the_work_and_precision_is_what_the_engine_has(tmp_path: Path) -> None:
    assert GPU is not None
    source = graphs.saved(graphs.mlp(np.random.default_rng(0), width=32), tmp_path / "model.onnx")
    one, eight = (engine_structure(source, {"batch": size}, GPU) for size in (1, 8))
    assert one.macs == 3 * 32 * 32
    assert eight.macs == 8 * one.macs
    assert eight.bytes_moved > one.bytes_moved
    assert one.int8_share == 0
    samples = [{"x": row} for row in np.random.default_rng(1).standard_normal((32, 32)).astype(np.float32)]
    given = SampleSet(source="test", key="test", read=lambda: samples)
    convert(source, tmp_path / "int8.onnx", PrecisionOptions(precision="int8"), samples=given)
    assert engine_structure(tmp_path / "int8.onnx", {"batch": 8}, GPU).int8_share == 1


def test_weights_are_found_where_they_lie(tmp_path: Path) -> None:
    assert GPU is not None
    proto = graphs.mlp(np.random.default_rng(0), width=160)  # 100 KiB each: opened as data of the file itself
    inside = graphs.saved(proto, tmp_path / "inside.onnx")
    (tmp_path / "data").mkdir()
    onnx.save(proto, tmp_path / "beside.onnx", save_as_external_data=True, location="data/weights", size_threshold=0)
    before = sorted(tmp_path.rglob("*"))
    one, other = (engine_structure(path, {"batch": 4}, GPU) for path in (inside, tmp_path / "beside.onnx"))
    assert one.macs == 3 * 4 * 160 * 160
    assert one.to_json() == other.to_json()
    assert sorted(tmp_path.rglob("*")) == before


def test_what_the_builder_refuses_is_refused(tmp_path: Path) -> None:
    assert GPU is not None
    proto = graphs.model([graphs.node("Det", ["x"], "y")], {"x": ["batch", 4, 4]}, {"y": ["batch"]}, {})
    with pytest.raises(BuildError, match="Det"):
        engine_structure(graphs.saved(proto, tmp_path / "model.onnx"), {"batch": 1}, GPU)
