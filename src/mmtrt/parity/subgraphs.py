"""Parts of an ONNX graph that run by themselves, their weights left in the file where they lie."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from mmtrt.onnx_files import MODULE_KEY, SOURCE_KEY, open_model
from mmtrt.tensors import Array

__all__ = ["NEUTRAL", "Part", "clean_name", "note_of", "reads", "renamed", "with_inputs"]

NEUTRAL = {"Cast", "Constant", "DequantizeLinear", "Identity", "QuantizeLinear"}
"""What changes how a number is held, and not what it is."""


class Part:
    """An ONNX file as what parts are cut from: who makes a tensor, who reads it, and what no input changes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = open_model(path)
        self.nodes: list[onnx.NodeProto] = list(self.model.graph.node)
        self.weights = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self.sparse = {tensor.values.name: tensor for tensor in self.model.graph.sparse_initializer}
        self.inputs = [value.name for value in self.model.graph.input if value.name not in self.weights]
        self.outputs = [value.name for value in self.model.graph.output]
        self.makers = {name: index for index, node in enumerate(self.nodes) for name in node.output if name}
        self._roots: dict[int, frozenset[str]] = {}

    @cached_property
    def fixed(self) -> frozenset[int]:
        """Return the nodes that no input reaches; they are computed again in each part that reads them."""
        known = {*self.weights, *self.sparse}
        found = set()
        for index, node in enumerate(self.nodes):
            if not _is_random(node) and all(name in known for name in reads(node)):
                found.add(index)
                known.update(node.output)
        # An output has to be computed by someone.
        return frozenset(i for i in found if not set(self.nodes[i].output) & set(self.outputs))

    @cached_property
    def moving(self) -> list[int]:
        """Return the other nodes, in the graph's order."""
        return [index for index in range(len(self.nodes)) if index not in self.fixed]

    @cached_property
    def readers(self) -> dict[str, list[int]]:
        """Return who reads a tensor, but for fixed nodes."""
        found: dict[str, list[int]] = {}
        for index in self.moving:
            for name in set(reads(self.nodes[index])):
                found.setdefault(name, []).append(index)
        return found

    def varies(self, name: str) -> bool:
        """Tell whether inputs change a tensor."""
        return name in self.inputs or (name in self.makers and self.makers[name] not in self.fixed)

    def needs(self, index: int) -> list[str]:
        """Return what a node reads that inputs change."""
        return [name for name in dict.fromkeys(reads(self.nodes[index])) if self.varies(name)]

    def entries(self, indices: Collection[int]) -> list[str]:
        """Return what some nodes read that inputs change and that others make."""
        inside = {name for index in indices for name in self.nodes[index].output}
        read = dict.fromkeys(name for index in indices for name in self.needs(index))
        return [name for name in read if name not in inside]

    def behind(self, name: str) -> onnx.NodeProto | None:
        """Return the node that computes a tensor, seen through casts and Q/DQ; None for an input or a weight."""
        seen = set()
        while name in self.makers and name not in seen:
            seen.add(name)
            node = self.nodes[self.makers[name]]
            if node.op_type not in NEUTRAL or not node.input or node.input[0] not in self.makers:
                return node
            name = node.input[0]
        return None

    def roots(self, index: int) -> frozenset[str]:
        """Return the names of the weights that a node reads, through what is computed of them."""
        if index in self._roots:
            return self._roots[index]
        found, waiting, seen = set(), list(reads(self.nodes[index])), set()
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            if name in self.weights:
                found.add(name)
            elif name in self.makers and self.makers[name] in self.fixed:
                waiting += reads(self.nodes[self.makers[name]])
        return self._roots.setdefault(index, frozenset(found))

    def segment(self, name: str, ends: Collection[str]) -> list[int]:
        """Return the moving nodes that compute a tensor from the nearest of `ends` upstream, in order."""
        found: set[int] = set()
        waiting = [name]
        while waiting:
            index = self.makers.get(waiting.pop())
            if index is not None and index not in found and index not in self.fixed:
                found.add(index)
                waiting += [read for read in self.needs(index) if read not in ends]
        return sorted(found)

    def cut(
        self, indices: Iterable[int], given: Mapping[str, Array], outputs: Sequence[str], names: Mapping[str, str]
    ) -> onnx.ModelProto:
        """Return a model of these nodes, which reads `given` (typed as its arrays are) and returns `outputs`.

        `names` gives what nodes read another name; rank and type of the inputs are fixed, sizes are not.
        """
        chosen = [renamed(self.nodes[index], names) for index in indices]
        return with_inputs(self._model([*self._fixed_for(chosen), *chosen]), given, outputs)

    def _fixed_for(self, nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
        found: set[int] = set()
        waiting = [name for node in nodes for name in reads(node)]
        while waiting:
            index = self.makers.get(waiting.pop())
            if index in self.fixed and index not in found:
                found.add(index)
                waiting += reads(self.nodes[index])
        return [self.nodes[index] for index in sorted(found)]

    def _model(self, nodes: Sequence[onnx.NodeProto]) -> onnx.ModelProto:
        model = onnx.ModelProto(ir_version=self.model.ir_version)
        model.opset_import.extend(self.model.opset_import)
        model.functions.extend(self.model.functions)
        model.graph.name = self.model.graph.name or "part"
        model.graph.node.extend(nodes)
        used = {name for node in nodes for name in reads(node)}
        model.graph.initializer.extend(tensor for name, tensor in self.weights.items() if name in used)
        model.graph.sparse_initializer.extend(tensor for name, tensor in self.sparse.items() if name in used)
        return model


_RANDOM = {
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}


def _is_random(node: onnx.NodeProto) -> bool:
    """Tell whether a node may say something else each time, whatever it reads: a Dropout may where it is told to."""
    told = node.op_type == "Dropout" and len(node.input) > 2 and bool(node.input[2])
    return told or node.op_type in _RANDOM or any(_is_random(inner) for graph in _graphs(node) for inner in graph.node)


def reads(node: onnx.NodeProto) -> list[str]:
    """Return the names that a node reads, those that its subgraphs take from outside too."""
    found = [name for name in node.input if name]
    for graph in _graphs(node):
        own = {v.name for v in (*graph.input, *graph.initializer)} | {n for inner in graph.node for n in inner.output}
        inside = [name for inner in graph.node for name in reads(inner)]
        found += [name for name in (*inside, *(v.name for v in graph.output)) if name not in own]
    return found


def renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """Return the node, reading other names: in its subgraphs too, where they are read from outside."""
    if not any(name in names for name in reads(node)):
        return node
    made = onnx.NodeProto()
    made.CopyFrom(node)
    _rename(made, names)
    return made


def _rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    node.input[:] = [names.get(name, name) for name in node.input]
    for graph in _graphs(node):
        own = {v.name for v in (*graph.input, *graph.initializer)} | {n for inner in graph.node for n in inner.output}
        outside = {name: other for name, other in names.items() if name not in own}
        for inner in graph.node:
            _rename(inner, outside)
        for index, value in enumerate(graph.output):
            if value.name in outside:
                made = helper.make_node("Identity", [outside[value.name]], [f"{value.name}::inner{index}"])
                graph.node.append(made)
                value.name = made.output[0]


def _graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def with_inputs(model: onnx.ModelProto, given: Mapping[str, Array], outputs: Sequence[str]) -> onnx.ModelProto:
    """Give a model inputs of the arrays' types and ranks, and outputs whose types ONNX Runtime finds out."""
    for name, array in given.items():
        kind = helper.np_dtype_to_tensor_dtype(np.asarray(array).dtype)
        model.graph.input.append(helper.make_tensor_value_info(name, kind, [None] * np.ndim(array)))
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    return model


def clean_name(name: str) -> str:
    """Return what a tensor is called where the reference's value stands for it."""
    return f"{name}::clean"


def note_of(node: onnx.NodeProto | None, key: str = MODULE_KEY) -> str:
    """Return the module that a node came from, or with `SOURCE_KEY` the line; empty where it does not tell."""
    assert key in {MODULE_KEY, SOURCE_KEY}  # noqa: S101 -- the two that an export keeps
    return next((entry.value for entry in node.metadata_props if entry.key == key), "") if node is not None else ""
