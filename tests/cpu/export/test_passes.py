"""Each pass on graphs of its own kind: checked by ONNX, run before and after, built by TensorRT-RTX."""

from __future__ import annotations

import copy
from pathlib import Path

import mended
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from mmtrt.export.passes import run_passes
from mmtrt.tensors import Array, ShapeRange

Sizes = list[int | str]


def graph(kind: str, inputs: dict[str, Sizes], rank: int, outputs: int = 1, **attributes: object) -> onnx.ModelProto:
    names = ["y", "places"][:outputs]
    node = helper.make_node(kind, list(inputs), names, name="node", **attributes)
    node.metadata_props.add(key="module", value="head")
    kinds = [TensorProto.FLOAT, TensorProto.INT64]
    made = helper.make_graph(
        [node],
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(n, t, [None] * rank) for n, t in zip(names, kinds, strict=False)],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def passed(model: onnx.ModelProto, limits: dict[str, int]) -> tuple[onnx.ModelProto, list[str]]:
    heard: list[str] = []
    changed = ir.from_proto(copy.deepcopy(model))
    run_passes(changed, limits, heard.append)
    proto = ir.to_proto(changed)
    onnx.checker.check_model(proto, full_check=True)
    return proto, heard


def same(before: onnx.ModelProto, after: onnx.ModelProto, folder: Path, feeds: dict[str, Array]) -> None:
    found = []
    for name, model in (("before", before), ("after", after)):
        onnx.save(model, str(folder / f"{name}.onnx"))
        found.append(mended.run(folder / f"{name}.onnx", feeds)[0])
    mended.assert_close(*found)


POOLS = [
    ("AveragePool", ["b", 4, 5, 7], [2560, 2560], {"ceil_mode": 1}),
    ("AveragePool", ["b", 4, 5, 7], [9, 7], {"ceil_mode": 1, "count_include_pad": 1}),
    ("AveragePool", ["b", 4, 5, 7], [5, 7], {}),
    ("AveragePool", ["b", 4, 5], [64], {"ceil_mode": 1}),
    ("MaxPool", ["b", 4, 5, 7], [512, 512], {"ceil_mode": 1}),
    ("MaxPool", ["b", 4, 5, "w"], [5, 12], {"ceil_mode": 1}),
]


@pytest.mark.parametrize(("kind", "shape", "window", "attributes"), POOLS)
def test_a_window_over_the_whole_map_is_a_global_pool(
    kind: str, shape: Sizes, window: list[int], attributes: dict[str, int], tmp_path: Path
) -> None:
    before = graph(kind, {"x": shape}, len(shape), kernel_shape=window, strides=window, **attributes)
    after, heard = passed(before, {"b": 8, "w": 12})
    assert heard == ["pooling"]
    (node,) = after.graph.node
    assert node.op_type == f"Global{kind}"
    assert (node.metadata_props[0].key, node.metadata_props[0].value) == ("module", "head")
    sizes = [{"b": 2, "w": 7}.get(size, size) for size in shape]
    x = np.random.default_rng(0).standard_normal(sizes).astype(np.float32)
    same(before, after, tmp_path, {"x": x})


@pytest.mark.parametrize(
    ("kind", "shape", "window", "attributes"),
    [
        ("AveragePool", ["b", 4, 5, 7], [5, 6], {"ceil_mode": 1}),
        ("AveragePool", ["b", 4, 5, 7], [7, 9], {"pads": [1, 1, 1, 1]}),
        ("AveragePool", ["b", 4, 5, "w"], [5, 11], {"ceil_mode": 1}),
        ("AveragePool", ["b", 4, 5, "other"], [5, 12], {"ceil_mode": 1}),
        ("AveragePool", ["b", 4, 5, "w"], [5, 12], {}),
        ("MaxPool", ["b", 4, 5, 7], [3, 4], {"dilations": [2, 2]}),
    ],
)
def test_another_window_stays(kind: str, shape: Sizes, window: list[int], attributes: dict[str, int]) -> None:
    before = graph(kind, {"x": shape}, len(shape), kernel_shape=window, **attributes)
    after, heard = passed(before, {"b": 8, "w": 12})
    assert heard == []
    assert after.graph.node[0].op_type == kind


def test_a_pool_that_tells_places_stays() -> None:
    _, heard = passed(graph("MaxPool", {"x": ["b", 4, 5, 7]}, 4, outputs=2, kernel_shape=[5, 7]), {"b": 8})
    assert heard == []


def test_a_huge_window_builds_as_a_global_pool(tmp_path: Path) -> None:
    before = graph("AveragePool", {"x": ["b", 4, 5, 7]}, 4, kernel_shape=[2560, 2560], ceil_mode=1)
    after, _ = passed(before, {"b": 8})
    onnx.save(after, str(tmp_path / "after.onnx"))
    span = ShapeRange(min=(1, 4, 5, 7), opt=(2, 4, 5, 7), max=(8, 4, 5, 7))
    assert mended.build(tmp_path / "after.onnx", {"x": span}).is_file()


SIZES = {"b": 2, "h": 3, "q": 4, "k": 5, "d": 6, "e": 7}
BUILT = {"bqhd,bkhd->bhqk", "bqd,bdhk->bqhk", "bqhd,kd->bk"}
PRODUCTS = [
    ("bqd,bkd->bqk", "bqd", "bkd"),
    ("...qd,...kd->...qk", "bhqd", "bhkd"),
    ("bqhd,bkhd->bhqk", "bqhd", "bkhd"),
    ("bhqk,bkhd->bqhd", "bhqk", "bkhd"),
    ("bqd,bdhk->bqhk", "bqd", "bdhk"),
    ("...d,de->...e", "bqkd", "de"),
    ("bqd,bd->bq", "bqd", "bd"),
    ("bd,bkd->kb", "bd", "bkd"),
    ("bqhd,kd->bk", "bqhd", "kd"),
    ("d,d->", "d", "d"),
]


@pytest.mark.parametrize(("equation", "left", "right"), PRODUCTS)
def test_an_einsum_of_two_is_a_product(equation: str, left: str, right: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    feeds = {
        name: rng.standard_normal([SIZES[c] for c in letters]).astype(np.float32)
        for name, letters in (("x", left), ("y0", right))
    }
    told = np.einsum(equation, *feeds.values())
    # All axes dynamic: no size is needed to write the product.
    before = graph("Einsum", {"x": list(left), "y0": list(right)}, told.ndim, equation=equation)
    after, heard = passed(before, {})
    assert heard == ["einsum"]
    kinds = {node.op_type for node in after.graph.node}
    assert "MatMul" in kinds
    assert "Einsum" not in kinds
    assert after.graph.output[0].name == "y"
    assert {node.metadata_props[0].value for node in after.graph.node} == {"head"}
    same(before, after, tmp_path, feeds)
    if equation in BUILT:
        shapes = {name: ShapeRange(min=array.shape, opt=array.shape, max=array.shape) for name, array in feeds.items()}
        assert mended.build(tmp_path / "after.onnx", shapes).is_file()


@pytest.mark.parametrize(
    ("equation", "shapes", "rank"),
    [
        ("bd->db", {"x": ["b", "d"]}, 2),
        ("bq,bq->bq", {"x": ["b", "q"], "y0": ["b", "q"]}, 2),
        ("bqd,bqd->b", {"x": ["b", "q", "d"], "y0": ["b", "q", "d"]}, 1),
        ("qq,qd->qd", {"x": ["q", "q"], "y0": ["q", "d"]}, 2),
        ("ab,bc,cd->ad", {"x": ["a", "b"], "y0": ["b", "c"], "z": ["c", "d"]}, 2),
    ],
)
def test_another_einsum_stays(equation: str, shapes: dict[str, Sizes], rank: int) -> None:
    _, heard = passed(graph("Einsum", shapes, rank, equation=equation), {})
    assert heard == []
