"""What a graph does with its inputs: dropped, unused, of one size only, or without an effect on an output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx

from mmtrt.export.findings import Finding
from mmtrt.export.shapes import Ranges
from mmtrt.export.sources import Source

__all__ = ["input_findings", "reached"]

_SHAPE_ONLY = {"Shape", "Size"}
"""What these give says nothing of the values that they are given."""

_UNUSED = (
    "Take it out of the factory's inputs, so that nobody feeds it in vain; if it should count, look in forward for "
    "the branch or the default that passes it by."
)


def input_findings(source: Source, model: onnx.ModelProto, ranges: Ranges) -> Iterator[Finding]:
    """Yield what became of the inputs, of their named axes, and of each modality on its way to each output."""
    names = [value.name for value in model.graph.input]
    used = {name for node in model.graph.node for name in _needed(node)}
    idle = [name for name in source.examples if name not in names or name not in used]
    for name in idle:
        dropped = name not in names
        yield Finding(
            kind="dropped input" if dropped else "unused input",
            what=f"the graph does not use input {name!r}" + (": the exporter dropped it" if dropped else ""),
            where=name,
            fix=_UNUSED,
        )
    yield from _fixed_axes(source, model, ranges)
    yield from _blind_outputs(source, model, idle)


def _fixed_axes(source: Source, model: onnx.ModelProto, ranges: Ranges) -> Iterator[Finding]:
    for name, size in fixed_sizes(source, model).items():
        if not ranges[name][0] < ranges[name][2]:
            continue
        where = ", ".join(f"{i}[{a}]" for i, named in source.axes.items() for a, n in named.items() if n == name)
        yield Finding(
            kind="fixed axis",
            what=f"axis {name!r} lost its dynamism: the graph takes {size} only",
            where=where,
            fix="Look in forward for that size as a number (reshape, expand, a table), or give the axis no name.",
        )


def fixed_sizes(source: Source, model: onnx.ModelProto) -> dict[str, int]:
    """Return the sizes that are named in the source and numbers in the graph, and the numbers."""
    shapes = {value.name: value.type.tensor_type.shape.dim for value in model.graph.input}
    kept = {dim.dim_param for dims in shapes.values() for dim in dims}
    return {
        size: shapes[name][axis].dim_value
        for name, named in source.axes.items()
        for axis, size in named.items()
        if name in shapes and size not in kept
    }


def _blind_outputs(source: Source, model: onnx.ModelProto, idle: Iterable[str]) -> Iterator[Finding]:
    seen = reached(model.graph)
    for output, inputs in seen.items():
        for modality, members in source.modalities.items():
            if inputs & set(members) or set(members) <= set(idle) or len(source.modalities) < 2:
                continue
            yield Finding(
                kind="blind output",
                what=f"output {output!r} depends on no input of modality {modality!r}",
                where=output,
                fix="Right for a tower that sees one modality; else look in forward for where the fusion is lost.",
                severity="note",
            )


def reached(graph: onnx.GraphProto) -> dict[str, frozenset[str]]:
    """Return the inputs on whose values each output of a graph depends; a size alone is no value."""
    given: dict[str, frozenset[str]] = {value.name: frozenset([value.name]) for value in graph.input}
    for node in graph.node:
        nothing: frozenset[str] = frozenset()
        sources = () if node.op_type in _SHAPE_ONLY else (given.get(name, nothing) for name in _needed(node))
        given |= dict.fromkeys(node.output, nothing.union(*sources))
    return {value.name: given.get(value.name, frozenset()) for value in graph.output}


def _needed(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the values that a node takes, those that its subgraphs take from outside too."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from (value.name for value in graph.output)
            for inner in graph.node:
                yield from _needed(inner)
