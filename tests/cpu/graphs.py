"""ONNX graphs for tests, made with onnx.helper: what a user brings that mmtrt did not export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, list[int | str]],
    outputs: dict[str, list[int | str]],
    constants: dict[str, np.ndarray],
    *,
    opset: int = 18,
    dtypes: dict[str, int] | None = None,
) -> onnx.ModelProto:
    """Float inputs and outputs unless `dtypes` says otherwise."""
    known = dtypes or {}
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, known.get(name, FLOAT), shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, known.get(name, FLOAT), shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return made


def node(kind: str, inputs: Sequence[str], output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs), [output], name=f"{output}_{kind}", **attributes)


def weights(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype(np.float32)


def mlp(rng: np.random.Generator, width: int = 8, layers: int = 3) -> onnx.ModelProto:
    """`x` `(batch, width)` through Gemm (transB), MatMul and Relu to `y`."""
    nodes, constants, value = [], {}, "x"
    for index in range(layers):
        constants[f"w{index}"] = weights(rng, width, width)
        constants[f"b{index}"] = weights(rng, width)
        if index % 2:
            nodes += [
                node("MatMul", [value, f"w{index}"], f"m{index}"),
                node("Add", [f"m{index}", f"b{index}"], f"h{index}"),
            ]
        else:
            nodes.append(node("Gemm", [value, f"w{index}", f"b{index}"], f"h{index}", transB=1))
        value = f"r{index}"
        nodes.append(node("Relu", [f"h{index}"], value))
    nodes.append(node("Softmax", [value], "y", axis=-1))
    return model(nodes, {"x": ["batch", width]}, {"y": ["batch", width]}, constants)


def residual_cnn(rng: np.random.Generator, channels: int = 8) -> onnx.ModelProto:
    """`x` `(batch, 3, 12, 12)` through a residual block and a strided one with a projection to `y` `(batch, 5)`."""
    c = channels
    constants = {
        "stem": weights(rng, c, 3, 3, 3),
        "a": weights(rng, c, c, 3, 3),
        "b": weights(rng, c, c, 3, 3),
        "d": weights(rng, c, c, 3, 3),
        "p": weights(rng, c, c, 1, 1),
        "head": weights(rng, 16, c),
        "head_bias": weights(rng, 16),
        "last": weights(rng, 5, 16),
    }
    same = {"pads": [1, 1, 1, 1]}
    nodes = [
        node("Conv", ["x", "stem"], "c0", **same),
        node("Relu", ["c0"], "r0"),
        node("Conv", ["r0", "a"], "c1", **same),
        node("Relu", ["c1"], "r1"),
        node("Conv", ["r1", "b"], "c2", **same),
        node("Add", ["c2", "r0"], "s2"),
        node("Relu", ["s2"], "r2"),
        node("Conv", ["r2", "d"], "c3", strides=[2, 2], **same),
        node("Conv", ["r2", "p"], "c4", strides=[2, 2]),
        node("Add", ["c3", "c4"], "s4"),
        node("Relu", ["s4"], "r4"),
        node("GlobalAveragePool", ["r4"], "pool"),
        node("Flatten", ["pool"], "flat"),
        node("Gemm", ["flat", "head", "head_bias"], "h", transB=1),
        node("Relu", ["h"], "hr"),
        node("Gemm", ["hr", "last"], "y", transB=1),
    ]
    return model(nodes, {"x": ["batch", 3, 12, 12]}, {"y": ["batch", 5]}, constants)


def attention(rng: np.random.Generator, mask_value: float, width: int = 8) -> onnx.ModelProto:
    """`x` `(batch, text, width)` and `mask` `(batch, text)` int64; masked tokens get `mask_value` in the scores."""
    constants = {
        "root": np.array(1 / np.sqrt(width), dtype=np.float32),
        "hide": np.array(mask_value, dtype=np.float32),
        "zero": np.array(0.0, dtype=np.float32),
        "axis": np.array([1], dtype=np.int64),
        "g": np.ones(width, dtype=np.float32),
        "s": np.zeros(width, dtype=np.float32),
        "q": weights(rng, width, width),
        "k": weights(rng, width, width),
        "v": weights(rng, width, width),
        "o": weights(rng, width, width),
    }
    nodes = [
        node("Cast", ["mask"], "seen", to=FLOAT),
        node("Unsqueeze", ["seen", "axis"], "row"),
        node("Equal", ["row", "zero"], "hidden"),
        node("Where", ["hidden", "hide", "zero"], "bias"),
        node("LayerNormalization", ["x", "g", "s"], "n", axis=-1),
        node("MatMul", ["n", "q"], "Q"),
        node("MatMul", ["n", "k"], "K"),
        node("MatMul", ["n", "v"], "V"),
        node("Transpose", ["K"], "Kt", perm=[0, 2, 1]),
        node("MatMul", ["Q", "Kt"], "products"),
        node("Mul", ["products", "root"], "scores"),
        node("Add", ["scores", "bias"], "masked"),
        node("Softmax", ["masked"], "p", axis=-1),
        node("MatMul", ["p", "V"], "mix"),
        node("MatMul", ["mix", "o"], "out"),
        node("Add", ["out", "x"], "sum"),
        node("Relu", ["sum"], "y"),
    ]
    return model(
        nodes,
        {"x": ["batch", "text", width], "mask": ["batch", "text"]},
        {"y": ["batch", "text", width]},
        constants,
        dtypes={"mask": TensorProto.INT64},
    )


def saved(proto: onnx.ModelProto, path: Path) -> Path:
    onnx.save(proto, str(path))
    return path
