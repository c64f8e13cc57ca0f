"""Plants faults in the test model: in its graph, and in the module that it is exported from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

Fault = Callable[[onnx.ModelProto], None]


def weight(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def changed(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    tensor = weight(model, name)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(numpy_helper.to_array(tensor))), name))


def of_module(model: onnx.ModelProto, module: str, op: str) -> list[onnx.NodeProto]:
    """The nodes of an operation in a module, in the graph's order."""
    return [
        node
        for node in model.graph.node
        if node.op_type == op and any(e.key == "mmtrt.module" and e.value == module for e in node.metadata_props)
    ]


def first_weight(model: onnx.ModelProto, module: str, op: str) -> str:
    names = {tensor.name for tensor in model.graph.initializer}
    return next(name for node in of_module(model, module, op) for name in node.input if name in names)


def transposed(module: str, op: str) -> Fault:
    return lambda model: changed(model, first_weight(model, module, op), lambda array: array.T)


def rows_moved(name: str) -> Fault:
    return lambda model: changed(model, name, lambda array: np.roll(array, 3, axis=0))


def bias_lost(module: str) -> Fault:
    """A Conv or Gemm without its third input; else the Add behind a MatMul is gone."""

    def plant(model: onnx.ModelProto) -> None:
        for node in (*of_module(model, module, "Conv"), *of_module(model, module, "Gemm")):
            del node.input[2]
            return
        for node in of_module(model, module, "Add"):
            bypassed(model, node, 0)

    return plant


def bypassed(model: onnx.ModelProto, node: onnx.NodeProto, keep: int) -> None:
    """Take a node away: who read it reads one of its inputs."""
    for other in model.graph.node:
        for index, name in enumerate(other.input):
            if name == node.output[0]:
                other.input[index] = node.input[keep]
    model.graph.node.remove(node)


def residual_dropped(model: onnx.ModelProto) -> None:
    """`relu(block(stem) + stem)` without `+ stem`."""
    block = of_module(model, "block", "Conv")[0].output[0]
    total = next(node for node in model.graph.node if node.op_type == "Add" and block in node.input)
    bypassed(model, total, list(total.input).index(block))


def normalised_in_training_mode(module: str) -> Fault:
    """Behind a Conv, a BatchNormalization that takes mean and variance from the batch."""

    def plant(model: onnx.ModelProto) -> None:
        conv = of_module(model, module, "Conv")[0]
        name, channels = conv.output[0], weight(model, conv.input[1]).dims[0]
        conv.output[0] = f"{name}.raw"
        for key, value in (("scale", 1), ("bias", 0), ("mean", 0), ("var", 1)):
            array = np.full(channels, value, dtype=np.float32)
            model.graph.initializer.append(numpy_helper.from_array(array, f"bn.{key}"))
        reads = [conv.output[0], "bn.scale", "bn.bias", "bn.mean", "bn.var"]
        node = helper.make_node("BatchNormalization", reads, [name, "bn.m", "bn.v"], name="bn", training_mode=1)
        node.metadata_props.add(key="mmtrt.module", value=module)
        model.graph.node.insert(list(model.graph.node).index(conv) + 1, node)

    return plant


def dropout_left_on(module: str, op: str) -> Fault:
    def plant(model: onnx.ModelProto) -> None:
        last = of_module(model, module, op)[-1]
        name = last.output[0]
        last.output[0] = f"{name}.kept"
        model.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "ratio"))
        model.graph.initializer.append(numpy_helper.from_array(np.array(True), "training"))
        node = helper.make_node("Dropout", [f"{name}.kept", "ratio", "training"], [name], name="dropped", seed=1)
        node.metadata_props.add(key="mmtrt.module", value="dropout")
        model.graph.node.insert(list(model.graph.node).index(last) + 1, node)

    return plant


def scale_times(factor: float, module: str) -> Fault:
    """Another scale of what a layer's input is quantised with, in Q and DQ both."""

    def plant(model: onnx.ModelProto) -> None:
        makers = {name: node for node in model.graph.node for name in node.output}
        layer = next(n for op in ("Conv", "Gemm", "MatMul") for n in of_module(model, module, op))
        node = makers.get(layer.input[0])
        while node is not None and node.op_type != "DequantizeLinear":
            node = makers.get(node.input[0])
        assert node is not None
        changed(model, node.input[1], lambda array: array * np.float32(factor))

    return plant


def overflow(module: str) -> Fault:
    """What a module returns is scaled up, goes through FP16, and is scaled down: beyond 65504 it is infinite."""

    def plant(model: onnx.ModelProto) -> None:
        last = next(node for node in reversed(model.graph.node) if node in of_module(model, module, node.op_type))
        name = last.output[0]
        last.output[0] = f"{name}.small"
        model.graph.initializer.append(numpy_helper.from_array(np.float32(60000), "large"))
        half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
        steps = [
            helper.make_node("Mul", [f"{name}.small", "large"], ["o.large"], name="o.mul"),
            helper.make_node("Cast", ["o.large"], ["o.half"], name="o.half", to=half),
            helper.make_node("Cast", ["o.half"], ["o.single"], name="o.single", to=single),
            helper.make_node("Div", ["o.single", "large"], [name], name="o.div"),
        ]
        at = list(model.graph.node).index(last) + 1
        for offset, node in enumerate(steps):
            node.metadata_props.add(key="mmtrt.module", value=module)
            model.graph.node.insert(at + offset, node)

    return plant


def planted(source: Path, folder: Path, fault: Fault) -> Path:
    model = onnx.load(str(source))
    fault(model)
    path = folder / "candidate.onnx"
    onnx.save(model, str(path))
    return path
