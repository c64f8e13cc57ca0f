"""Plants one fault each into a graph, FP32, FP16 or with Q/DQ: as a bug of an exporter or a converter would leave it.

A place is named by its module, so that one function works on each precision. What it writes keeps the names of
tensors and the module of each node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from mmtrt.results import CheckResult
from mmtrt.tensors import Array

__all__ = [
    "FAULTS",
    "Built",
    "Graph",
    "Judged",
    "dropout_left_on",
    "dropped_residual",
    "infinite_masks",
    "lost_bias",
    "missing_mask",
    "overflowing_norm",
    "permuted_rows",
    "shifted_length",
    "swapped_channels",
    "swapped_outputs",
    "told",
    "transposed_weight",
    "wrong_scale",
]

_MODULE = "mmtrt.module"
_PRODUCTS = ("MatMul", "Gemm", "Conv")
Proto = onnx.ModelProto
Built = Callable[[str, str], Path]
Judged = Callable[[onnx.ModelProto | Path | str], CheckResult]


class Graph:
    """A copy of a model whose nodes are found by module, and whose constants can be read and written."""

    def __init__(self, proto: Proto) -> None:
        self.proto = onnx.ModelProto()
        self.proto.CopyFrom(proto)
        self.nodes = self.proto.graph.node
        self.constants = {tensor.name: tensor for tensor in self.proto.graph.initializer}

    def find(self, module: str, kinds: Sequence[str]) -> onnx.NodeProto:
        """Return the first node of a module of one of some kinds; LookupError names what is not there."""
        for node in self.nodes:
            if node.op_type in kinds and self.module_of(node) == module:
                return node
        raise LookupError(f"module {module!r} has no {' or '.join(kinds)}")

    def module_of(self, node: onnx.NodeProto) -> str:
        return next((entry.value for entry in node.metadata_props if entry.key == _MODULE), "")

    def producer(self, name: str) -> onnx.NodeProto | None:
        return next((node for node in self.nodes if name in node.output), None)

    def consumers(self, name: str) -> list[onnx.NodeProto]:
        return [node for node in self.nodes if name in node.input]

    def constant_behind(self, name: str) -> tuple[str, onnx.NodeProto | None]:
        """Return the constant that an input comes from, and the DequantizeLinear between if there is one."""
        through = None
        while name not in self.constants:
            node = self.producer(name)
            if node is None or node.op_type not in {"Cast", "DequantizeLinear"}:
                raise LookupError(f"{name!r} is no constant")
            through = node if node.op_type == "DequantizeLinear" else through
            name = node.input[0]
        return name, through

    def is_constant(self, name: str) -> bool:
        try:
            self.constant_behind(name)
        except LookupError:
            return False
        return True

    def read(self, name: str) -> Array:
        return numpy_helper.to_array(self.constants[name])

    def write(self, name: str, array: Array) -> None:
        kept = self.read(name)
        made = numpy_helper.from_array(np.ascontiguousarray(array.astype(kept.dtype)), name)
        self.constants[name].CopyFrom(made)

    def edit_weight(self, module: str, change: Callable[[Array], Array]) -> Proto:
        """Change a product's weight or an embedding's table, also where it is stored as INT8; its scales stay."""
        node = self.find(module, (*_PRODUCTS, "Gather"))
        name, _ = self.constant_behind(node.input[0 if node.op_type == "Gather" else 1])
        self.write(name, change(self.read(name)))
        return self.proto

    def add_constant(self, name: str, array: Array) -> str:
        self.proto.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def replace(self, old: onnx.NodeProto, new: Sequence[onnx.NodeProto]) -> Proto:
        """Put nodes in a node's place; they belong to its module."""
        position = list(self.nodes).index(old)
        for node in new:
            node.name = node.name or f"{old.name}.{node.op_type.lower()}"
            del node.metadata_props[:]
            node.metadata_props.extend(old.metadata_props)
        kept = list(self.nodes)
        kept[position : position + 1] = new
        del self.nodes[:]
        self.nodes.extend(kept)
        return self.proto


# ------------------------------------------------------------------------------------------------ constants


def wrong_scale(proto: Proto, module: str) -> Proto:
    """A layer's scale is half too large: that of its INT8 weight, else the weight's own."""
    graph = Graph(proto)
    node = graph.find(module, _PRODUCTS)
    name, dequantize = graph.constant_behind(node.input[1])
    name = dequantize.input[1] if dequantize is not None else name
    graph.write(name, graph.read(name) * 1.5)
    return graph.proto


def swapped_channels(proto: Proto, module: str) -> Proto:
    """Red and blue are exchanged: the first convolution reads its input's channels the other way round."""
    return Graph(proto).edit_weight(module, lambda weight: weight[:, ::-1])


def transposed_weight(proto: Proto, module: str) -> Proto:
    """A square weight lies the other way round."""
    return Graph(proto).edit_weight(module, lambda weight: weight.T)


def permuted_rows(proto: Proto, module: str) -> Proto:
    """The table belongs to another tokenizer: each word has another word's row."""
    return Graph(proto).edit_weight(module, lambda table: np.roll(table, 7, axis=0))


def lost_bias(proto: Proto, module: str) -> Proto:
    """A layer's bias is 0."""
    graph = Graph(proto)
    node = graph.find(module, _PRODUCTS)
    if len(node.input) < 3:
        node = next(user for user in graph.consumers(node.output[0]) if user.op_type == "Add")
    name = next(name for name in list(node.input)[::-1] if graph.is_constant(name))
    name, _ = graph.constant_behind(name)
    graph.write(name, np.zeros_like(graph.read(name)))
    return graph.proto


# -------------------------------------------------------------------------------------------------- structure


def missing_mask(proto: Proto, module: str) -> Proto:
    """The attention's scores go into the softmax without the mask."""
    graph = Graph(proto)
    last = node = graph.producer(graph.find(module, ("Softmax",)).input[0])
    # A converter may pick what is hidden once more behind the sum, or cast it.
    while node is not None and node.op_type in {"Cast", "Where"}:
        node = graph.producer(node.input[-1])
    if last is None or node is None or node.op_type != "Add":
        raise LookupError(f"nothing is added to the scores of {module!r}")
    return graph.replace(last, [helper.make_node("Identity", [node.input[0]], list(last.output))])


def infinite_masks(proto: Proto, module: str) -> Proto:
    """What is hidden gets -inf: a row that is wholly masked has nothing to sum to 1."""
    graph = Graph(proto)
    node = graph.find(module, ("Mul",))
    hidden = next(name for name in node.input if name not in graph.constants)
    dtype = graph.read(next(name for name in node.input if name in graph.constants)).dtype
    zero = graph.add_constant(f"{node.name}.zero", np.zeros((), dtype))
    low = graph.add_constant(f"{node.name}.low", np.full((), -np.inf, dtype))
    flag = f"{node.name}.flag"
    return graph.replace(
        node,
        [
            helper.make_node("Cast", [hidden], [flag], to=onnx.TensorProto.BOOL),
            helper.make_node("Where", [flag, low, zero], list(node.output)),
        ],
    )


def dropped_residual(proto: Proto, module: str) -> Proto:
    """What a part adds is returned without what it was added to: the operand that was there earlier."""
    graph = Graph(proto)
    node = next(
        node
        for node in graph.nodes
        if node.op_type == "Add" and graph.module_of(node) == module and not any(map(graph.is_constant, node.input))
    )
    order = {name: index for index, made in enumerate(graph.nodes) for name in made.output}
    last = max(node.input, key=lambda name: order[name])
    return graph.replace(node, [helper.make_node("Identity", [last], list(node.output))])


def overflowing_norm(proto: Proto, module: str) -> Proto:
    """A LayerNorm is written out and computed in FP16: squares above 65504 are infinite, and it returns its bias."""
    graph = Graph(proto)
    node = graph.find(module, ("LayerNormalization",))
    dtype = graph.constants[node.input[1]].data_type
    at = node.name
    axes = graph.add_constant(f"{at}.axes", np.array([-1], dtype=np.int64))
    epsilon = graph.add_constant(f"{at}.epsilon", np.array(1e-5, dtype=np.float16))
    steps = [
        ("Cast", [node.input[0]], "half", {"to": onnx.TensorProto.FLOAT16}),
        ("ReduceMean", [f"{at}.half", axes], "mean", {}),
        ("Sub", [f"{at}.half", f"{at}.mean"], "centred", {}),
        ("Mul", [f"{at}.centred", f"{at}.centred"], "squares", {}),
        ("ReduceMean", [f"{at}.squares", axes], "variance", {}),
        ("Add", [f"{at}.variance", epsilon], "safe", {}),
        ("Sqrt", [f"{at}.safe"], "deviation", {}),
        ("Div", [f"{at}.centred", f"{at}.deviation"], "normal", {}),
        ("Cast", [f"{at}.normal"], "back", {"to": dtype}),
        ("Mul", [f"{at}.back", node.input[1]], "scaled", {}),
    ]
    made = [
        helper.make_node(op, inputs, [f"{at}.{out}"], name=f"{at}.{out}", **more) for op, inputs, out, more in steps
    ]
    made.append(helper.make_node("Add", [f"{at}.scaled", node.input[2]], list(node.output), name=at))
    return graph.replace(node, made)


def shifted_length(proto: Proto, mask: str) -> Proto:
    """The text's length is one too short: the mask, `(B, T)`, hides the last word too."""
    graph = Graph(proto)
    first = graph.consumers(mask)[0]
    for node in graph.consumers(mask):
        for index, name in enumerate(node.input):
            if name == mask:
                node.input[index] = f"{mask}.shifted"
    constants = {"one": [1], "zero": [0], "end": [np.iinfo(np.int64).max], "axis": [1]}
    one, zero, end, axis = (
        graph.add_constant(f"{mask}.{name}", np.array(value, dtype=np.int64)) for name, value in constants.items()
    )
    made = [
        helper.make_node("Slice", [mask, one, end, axis], [f"{mask}.rest"], name=f"{mask}.slice"),
        helper.make_node("Slice", [mask, zero, one, axis], [f"{mask}.first"], name=f"{mask}.first_slice"),
        helper.make_node("Sub", [f"{mask}.first", f"{mask}.first"], [f"{mask}.none"], name=f"{mask}.sub"),
        helper.make_node(
            "Concat", [f"{mask}.rest", f"{mask}.none"], [f"{mask}.shifted"], axis=1, name=f"{mask}.concat"
        ),
    ]
    kept = onnx.NodeProto()
    kept.CopyFrom(first)
    return graph.replace(first, [*made, kept])


def swapped_outputs(proto: Proto, one: str, other: str) -> Proto:
    """Two heads of one shape have each other's names."""
    graph = Graph(proto)
    names = {one: other, other: one}
    for node in graph.nodes:
        for where in (node.input, node.output):
            for index, name in enumerate(where):
                where[index] = names.get(name, name)
    return graph.proto


def dropout_left_on(proto: Proto, module: str) -> Proto:
    """A dropout of a tenth behind a product runs as in training."""
    graph = Graph(proto)
    node = graph.find(module, _PRODUCTS)
    ratio = graph.add_constant(f"{node.name}.ratio", np.array(0.1, dtype=np.float32))
    training = graph.add_constant(f"{node.name}.training", np.array(True))
    kept = onnx.NodeProto()
    kept.CopyFrom(node)
    kept.output[0] = f"{node.output[0]}.before"
    dropout = helper.make_node("Dropout", [kept.output[0], ratio, training], list(node.output))
    return graph.replace(node, [kept, dropout])


Fault = tuple[Callable[..., Proto], tuple[str, ...], str]
FAULTS: dict[str, Fault] = {
    "wrong scale": (wrong_scale, ("text.layers.0.hidden",), "text.layers.0.hidden"),
    "swapped channels": (swapped_channels, ("image.stem",), "image.stem"),
    "missing mask": (missing_mask, ("text.layers.1.attention",), "text.layers.1.attention"),
    "overflow in a norm": (overflowing_norm, ("text.norm",), "text.norm"),
    "-inf masks": (infinite_masks, ("text.layers.0.attention",), "text.layers.0.attention"),
    "dropped residual": (dropped_residual, ("image.blocks.0",), "image.blocks.0"),
    "transposed weight": (transposed_weight, ("fusion.value",), "fusion.value"),
    "other tokenizer": (permuted_rows, ("text.words",), "text.words"),
    "length off by one": (shifted_length, ("mask",), ""),
    "swapped heads": (swapped_outputs, ("colour", "shape"), ""),
    "lost bias": (lost_bias, ("image.project",), "image.project"),
    "dropout left on": (dropout_left_on, ("text.layers.1.output",), "text.layers.1.output"),
}
"""What is planted in the test model `planted_fusion`: the function, where, and the module to be named, if any."""


def told(result: CheckResult) -> list[str]:
    """Return what is out of budget, in words: of the samples and of the hard cases."""
    over = [f"{name}: {why}" for name, output in result.outputs.items() for why in output.why]
    return [
        *over,
        *(
            f"{case.kind} {case.name}: {name}: {output.why}"
            for case in result.stress
            for name, output in case.outputs.items()
            if output.why
        ),
    ]
