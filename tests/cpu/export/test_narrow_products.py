"""A product of one column beside a wider one of the same input, as detection heads shift and scale their logits."""

from __future__ import annotations

from pathlib import Path

import graphs
import mended
import numpy as np
from converting import made, normal

from mmtrt.tensors import ShapeRange


def test_it_stays_float_and_the_engine_is_built(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    constants = {
        "narrow": graphs.weights(rng, 32, 1),
        "shift": np.zeros(1, dtype=np.float32),
        "wide": graphs.weights(rng, 32, 32),
        "bias": np.zeros(32, dtype=np.float32),
        "axis": np.array([-1], dtype=np.int64),
    }
    nodes = [
        graphs.node("MatMul", ["x", "narrow"], "n"),
        graphs.node("Add", ["n", "shift"], "s"),
        graphs.node("Elu", ["s"], "scale"),
        graphs.node("MatMul", ["x", "wide"], "w"),
        graphs.node("Add", ["w", "bias"], "b"),
        graphs.node("ReduceL2", ["b", "axis"], "norm"),
        graphs.node("Div", ["b", "norm"], "unit"),
        graphs.node("Mul", ["unit", "scale"], "y"),
    ]
    model = graphs.model(nodes, {"x": ["batch", 6, 32]}, {"y": ["batch", 6, 32]}, constants)
    converted = made(model, tmp_path, normal((6, 32)), precision="int8", refine=())
    span = ShapeRange(min=(1, 6, 32), opt=(2, 6, 32), max=(4, 6, 32))
    assert mended.build(converted.onnx, {"x": span}).is_file()
    assert [(kept.node, kept.why) for kept in converted.kept if "column" in kept.why] == [
        ("n_MatMul", "a product of one column")
    ]
