"""What computes where to look keeps its precision; judged by what is then read there, and by TensorRT-RTX's parser."""

from __future__ import annotations

from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest
from converting import made, run
from onnx import TensorProto

from mmtrt.engine.build import BuildOptions, build_engine
from mmtrt.precision.converted import Converted
from mmtrt.tensors import Array, ShapeRange

CELLS = 64


def lifted(rng: np.random.Generator) -> onnx.ModelProto:
    """`image` (batch, 8, 16, 16), convolved, read where `camera` (batch, 2, 4) puts 64 points: `y` (batch, 4, 8, 8)."""
    constants = {
        "first": graphs.weights(rng, 8, 8, 3, 3),
        "last": graphs.weights(rng, 4, 8, 1, 1),
        "points": rng.uniform(-1, 1, (4, CELLS)).astype(np.float32),
        "grid_shape": np.array([0, 8, 8, 2]),
    }
    nodes = [
        graphs.node("Conv", ["image", "first"], "features", pads=[1, 1, 1, 1]),
        graphs.node("MatMul", ["camera", "points"], "places"),
        graphs.node("Transpose", ["places"], "turned", perm=[0, 2, 1]),
        graphs.node("Reshape", ["turned", "grid_shape"], "grid"),
        graphs.node("GridSample", ["features", "grid"], "read", mode="bilinear"),
        graphs.node("Conv", ["read", "last"], "mixed"),
        graphs.node("Relu", ["mixed"], "y"),
    ]
    inputs = {"image": ["batch", 8, 16, 16], "camera": ["batch", 2, 4]}
    return graphs.model(nodes, inputs, {"y": ["batch", 4, 8, 8]}, constants)


def views(count: int = 40, seed: int = 0) -> list[dict[str, Array]]:
    """Pictures that are fine-grained, so that a place a pixel off is another value."""
    rng = np.random.default_rng(seed)
    return [
        {
            "image": rng.standard_normal((8, 16, 16)).astype(np.float32),
            "camera": rng.uniform(-0.6, 0.6, (2, 4)).astype(np.float32),
        }
        for _ in range(count)
    ]


@pytest.mark.parametrize("coverage", ["wide", "full", "all"])
def test_the_product_that_says_where_to_look_is_not_quantised(tmp_path: Path, coverage: str) -> None:
    converted = made(lifted(np.random.default_rng(0)), tmp_path, views(), precision="int8", coverage=coverage)
    assert {one.node for one in converted.kept if "where to look" in one.why} >= {"places_MatMul"}
    quantised = {node.input[0] for node in onnx.load(converted.onnx).graph.node if node.op_type == "QuantizeLinear"}
    assert not quantised & {"camera", "points"}
    assert converted.int8_nodes >= 1


def test_in_fp16_places_are_computed_in_fp32(tmp_path: Path) -> None:
    converted = made(lifted(np.random.default_rng(0)), tmp_path, views(), precision="fp16")
    kept = {one.node for one in converted.kept}
    assert {"places_MatMul", "turned_Transpose", "grid_Reshape", "read_GridSample"} == kept
    # Convolutions on both sides of them are not.
    halves = {
        init.name for init in onnx.load(converted.onnx).graph.initializer if init.data_type == TensorProto.FLOAT16
    }
    assert any(name.startswith("first") for name in halves)
    assert any(name.startswith("last") for name in halves)


def scattered(rng: np.random.Generator) -> onnx.ModelProto:
    """Rows `x` (batch, 6, 4), embedded, to the cells of zeros that their own first number says: `y` (batch, 9, 8)."""
    constants = {
        "w": graphs.weights(rng, 4, 8),
        "zero": np.array([0]),
        "one": np.array([1]),
        "two": np.array([2]),
        "rest": np.array([9, 8]),
        "wide": np.array([1, 1, 8]),
    }
    nodes = [
        graphs.node("MatMul", ["x", "w"], "rows"),
        graphs.node("Slice", ["x", "zero", "one", "two"], "first"),
        graphs.node("Abs", ["first"], "positive"),
        graphs.node("Cast", ["positive"], "cells", to=TensorProto.INT64),
        graphs.node("Expand", ["cells", "wide"], "where"),
        graphs.node("Shape", ["x"], "size", start=0, end=1),
        graphs.node("Concat", ["size", "rest"], "canvas_size", axis=0),
        graphs.node("ConstantOfShape", ["canvas_size"], "canvas"),
        graphs.node("ScatterElements", ["canvas", "where", "rows"], "placed", axis=1),
        graphs.node("Relu", ["placed"], "y"),
    ]
    return graphs.model(nodes, {"x": ["batch", 6, 4]}, {"y": ["batch", 9, 8]}, constants)


def points(count: int = 40) -> list[dict[str, Array]]:
    """Each row in a cell of its own, some so near to the next cell that FP16 takes it for that."""
    rng = np.random.default_rng(3)
    made = []
    for _ in range(count):
        x = rng.standard_normal((6, 4)).astype(np.float32)
        x[:, 0] = rng.permutation(8)[:6] + np.float32(0.9999)
        made.append({"x": x})
    return made


def converted_points(folder: Path) -> Converted:
    return made(scattered(np.random.default_rng(0)), folder, points(), precision="fp16")


def test_a_cell_is_the_one_that_fp32_says(tmp_path: Path) -> None:
    converted = converted_points(tmp_path)
    x = np.stack([one["x"] for one in points(8)])
    wanted, got = (run(path, {"x": x})["y"] for path in (tmp_path / "model.onnx", converted.onnx))
    np.testing.assert_allclose(got, wanted, atol=0.02)


def test_zeros_that_are_made_have_the_type_of_what_is_put_among_them(tmp_path: Path) -> None:
    """ConstantOfShape without a value makes FP32 zeros; TensorRT takes a scatter of one type only."""
    converted = converted_points(tmp_path)
    onnx.checker.check_model(onnx.load(converted.onnx), full_check=True)
    pytest.importorskip("tensorrt_rtx")
    built = build_engine(
        converted.onnx,
        tmp_path / "model.engine",
        profile={"x": ShapeRange(min=(1, 6, 4), opt=(2, 6, 4), max=(4, 6, 4))},
        options=BuildOptions(flavor="tensorrt-rtx"),
    )
    assert built.engine_bytes > 0
