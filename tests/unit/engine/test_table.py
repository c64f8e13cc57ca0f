"""The table of an engine's kernels: whose work each does, what it moves, where it came from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmtrt.engine.layers import EngineLayer, LayerTensor
from mmtrt.engine.manifest import layer_rows, layers_path
from mmtrt.engine.table import Graph, int8_share, layer_table
from mmtrt.errors import InputError


def tensor(dtype: str, *dims: int) -> LayerTensor:
    return LayerTensor(name="t", dtype=dtype, dims=dims)


CONV = EngineLayer(
    name="conv_myl0_1",
    kind="correlation",
    tactic="",
    inputs=(tensor("int8", 1, 8, 4, 4),),
    outputs=(tensor("fp32", 1, 16, 4, 4),),
    constants=(tensor("int8", 16, 8, 3, 3), tensor("fp32", 1, 16, 1, 1)),
    nodes=("conv", "w.dq"),
)
EPILOGUE = EngineLayer(
    name="__myl_MulAddRelu_myl0_2",
    kind="kgen",
    tactic="",
    inputs=(tensor("fp32", 1, 16, 4, 4),),
    outputs=(tensor("fp16", 1, 16, 4, 4),),
    nodes=("conv", "relu"),
)
GEMM = EngineLayer(
    name="fc_myl0_3",
    kind="gemm",
    tactic="",
    inputs=(tensor("fp16", -1, 16),),
    outputs=(tensor("fp16", -1, 4),),
    constants=(tensor("fp16", 16, 4),),
    nodes=("fc",),
)
GRAPH = Graph(modules={"conv": "backbone.conv", "relu": "backbone", "fc": "head"}, macs={"conv": 3000, "fc": 1000})


def test_the_work_is_counted_once_and_where_it_is_done() -> None:
    rows = layer_table((CONV, EPILOGUE, GEMM), GRAPH)
    assert [row["macs"] for row in rows] == [3000, 0, 1000]
    assert [row["modules"] for row in rows] == [["backbone.conv"], ["backbone.conv", "backbone"], ["head"]]
    assert int8_share((CONV, EPILOGUE, GEMM), GRAPH) == 0.75
    assert int8_share((EPILOGUE,), Graph()) is None


def test_bytes_are_told_where_all_sizes_are_known() -> None:
    conv, _, gemm = layer_table((CONV, EPILOGUE, GEMM), GRAPH)
    weights = 16 * 8 * 3 * 3 + 4 * 16
    assert conv["constant_bytes"] == weights
    assert conv["bytes_moved"] == weights + 8 * 16 + 4 * 16 * 16
    assert (gemm["bytes_moved"], gemm["constant_bytes"]) == (None, 2 * 16 * 4)


def test_a_broken_list_of_layers_is_told(tmp_path: Path) -> None:
    engine = tmp_path / "e.engine"
    assert layer_rows(engine) is None
    layers_path(engine).write_text(json.dumps({"layers": [{"kind": "gemm"}]}), encoding="utf-8")
    with pytest.raises(InputError, match="is broken"):
        layer_rows(engine)
    layers_path(engine).write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="is no JSON"):
        layer_rows(engine)
