"""FP16 as a GPU stores it: ONNX Runtime's CPU alone would keep the results between FP16 nodes in FP32.

It has few kernels for FP16, puts casts around the others, and takes away each pair of casts that comes of it, with
all optimisations off too: 300 squared and its root are 300 then, where FP16 has infinity.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import onnx
from onnx import TensorProto, helper

__all__ = ["holds_halves", "rounded_halves"]

# What takes values as they are: nothing is there to be rounded.
_EXACT = {
    "Abs", "Cast", "CastLike", "Ceil", "Clip", "Compress", "Concat", "DepthToSpace", "DequantizeLinear", "Expand",
    "Flatten", "Floor", "Gather", "GatherElements", "GatherND", "Identity", "Max", "MaxPool", "Min", "Neg", "Pad",
    "Relu", "Reshape", "Reverse", "Round", "ScatterElements", "ScatterND", "Shape", "Sign", "Slice", "SpaceToDepth",
    "Split", "Squeeze", "Tile", "TopK", "Transpose", "Trilu", "Unsqueeze", "Where",
}  # fmt: skip
_STANDARD = {"", "ai.onnx"}
_TYPES = {"to", "output_dtype", "dtype"}
"""Attributes that name the type of what a node returns."""


def holds_halves(proto: onnx.ModelProto) -> bool:
    """Tell whether a model has FP16 values: given to it, as constants, or made by a node; in subgraphs too."""
    return _any_half(proto.graph)


def rounded_halves(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose FP16 results are each rounded to FP16; the model itself where there are none.

    A node that computes gets FP32, and a cast of its own rounds what it returns: such a cast stays. Names, inputs
    and outputs stay too. Nodes of subgraphs are rounded as others are. What has a type that neither the file nor its
    operators tell is left alone, and so is what is not of ONNX's own operators: a function of the model may hold FP16
    constants, which FP32 does not go with.
    """
    if not holds_halves(proto):
        return proto
    rounding = _Rounding(_names(proto.graph))
    nodes = rounding.nodes(proto.graph, _inferred(proto), set(), {})
    if not rounding.changed:
        return proto
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


def _any_half(graph: onnx.GraphProto) -> bool:
    tensors = (*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer))
    if any(tensor.data_type == TensorProto.FLOAT16 for tensor in tensors):
        return True
    return any(map(_is_half, (*graph.input, *graph.output))) or any(map(_makes_half, graph.node))


def _makes_half(node: onnx.NodeProto) -> bool:
    return any(
        (entry.name in _TYPES and entry.i == TensorProto.FLOAT16)
        or (entry.HasField("t") and entry.t.data_type == TensorProto.FLOAT16)
        or any(map(_any_half, _subgraphs(entry)))
        for entry in node.attribute
    )


def _is_half(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == TensorProto.FLOAT16)


def _subgraphs(entry: onnx.AttributeProto) -> list[onnx.GraphProto]:
    return [entry.g] if entry.HasField("g") else list(entry.graphs)


def _names(graph: onnx.GraphProto) -> set[str]:
    """Return all names of values, those of subgraphs too."""
    found = {value.name for value in (*graph.input, *graph.initializer)}
    for node in graph.node:
        found |= {*node.input, *node.output}
        for entry in node.attribute:
            found = found.union(*map(_names, _subgraphs(entry)))
    return found


def _inferred(proto: onnx.ModelProto) -> onnx.GraphProto:
    """Return the graph with the types of its values, as far as they can be told; without its weights."""
    graph = proto.graph
    # Types alone are asked for: weights, which may be most of a gigabyte, stay out of it.
    light = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import, functions=proto.functions)
    light.graph.name = graph.name
    light.graph.node.extend(graph.node)
    light.graph.input.extend(graph.input)
    light.graph.output.extend(graph.output)
    light.graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in graph.initializer
    )
    foreign = {name for node in graph.node if node.domain not in _STANDARD for name in node.output}
    for value in graph.value_info:
        if value.name in foreign:
            kind = value.type.tensor_type.elem_type
            light.graph.value_info.append(helper.make_tensor_value_info(value.name, kind, None))
    return onnx.shape_inference.infer_shapes(light).graph


class _Rounding:
    """One pass over a graph and its subgraphs; `changed` tells whether anything was there to be rounded."""

    def __init__(self, taken: set[str]) -> None:
        self._taken = taken
        self.changed = False

    def nodes(
        self, graph: onnx.GraphProto, inferred: onnx.GraphProto, outside: set[str], known: Mapping[str, str]
    ) -> list[onnx.NodeProto]:
        """Return a graph's nodes, each rounded.

        `inferred` is the graph with types, `outside` the FP16 values around it, `known` those of them that are there
        in FP32, by name.
        """
        wide = dict(known)
        halves = outside - _names_made(graph) | set(_halves(inferred))
        made: list[onnx.NodeProto] = []
        for node, typed in zip(graph.node, inferred.node, strict=True):
            if any(_subgraphs(entry) for entry in node.attribute):
                made.append(self._inside(node, typed, halves, wide))
            elif _computes(node) and halves & set(node.input) and halves & set(node.output):
                made.extend(self._rounded(node, halves, wide))
                self.changed = True
            else:
                made.append(node)
        return made

    def _inside(
        self, node: onnx.NodeProto, typed: onnx.NodeProto, halves: set[str], wide: Mapping[str, str]
    ) -> onnx.NodeProto:
        made = onnx.NodeProto()
        made.CopyFrom(node)
        types = {entry.name: entry for entry in typed.attribute}
        for entry in made.attribute:
            for graph, inferred in zip(_subgraphs(entry), _subgraphs(types[entry.name]), strict=True):
                nodes = self.nodes(graph, inferred, halves, wide)
                del graph.node[:]
                graph.node.extend(nodes)
        return made

    def _rounded(self, node: onnx.NodeProto, halves: set[str], wide: dict[str, str]) -> Iterator[onnx.NodeProto]:
        widened = onnx.NodeProto()
        widened.CopyFrom(node)
        for index, name in enumerate(node.input):
            if name not in halves:
                continue
            if name not in wide:
                wide[name] = self._free(f"{name}.wide")
                yield helper.make_node("Cast", [name], [wide[name]], name=f"{name}.widen", to=TensorProto.FLOAT)
            widened.input[index] = wide[name]
        rounding = []
        for index, name in enumerate(node.output):
            if name in halves:
                widened.output[index] = exact = self._free(f"{name}.exact")
                rounding.append(helper.make_node("Cast", [exact], [name], name=f"{name}.round", to=TensorProto.FLOAT16))
        yield widened
        yield from rounding

    def _free(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def _computes(node: onnx.NodeProto) -> bool:
    # What returns a type that an attribute names does so whatever it is given.
    if node.domain not in _STANDARD or any(entry.name in _TYPES for entry in node.attribute):
        return False
    # Scattered values may be added to those that are there.
    reduces = any(entry.name == "reduction" and entry.s not in {b"", b"none"} for entry in node.attribute)
    return node.op_type not in _EXACT or (node.op_type.startswith("Scatter") and reduces)


def _names_made(graph: onnx.GraphProto) -> set[str]:
    """Return the names that a graph gives values itself: they hide those around it."""
    values: Iterable[str] = (value.name for value in (*graph.input, *graph.initializer))
    return {*values, *(name for node in graph.node for name in node.output)}


def _halves(inferred: onnx.GraphProto) -> Iterator[str]:
    """Return the names of a graph's own FP16 values."""
    yield from (value.name for value in (*inferred.input, *inferred.value_info, *inferred.output) if _is_half(value))
    yield from (tensor.name for tensor in inferred.initializer if tensor.data_type == TensorProto.FLOAT16)
