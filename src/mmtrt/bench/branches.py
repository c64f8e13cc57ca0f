"""Which branch of a fusion model each ONNX node belongs to: a modality, the fusion, or a head.

What inputs of one modality alone reach is that modality's. What several reach is `fusion`, up to where the outputs
part; what only one output needs from there on is `head:NAME`. An output that has what is fused for itself has no such
fork: there the head is the last module by its name, unless it is one that modalities meet in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import onnx

from mmtrt.bench.layers import Nodes
from mmtrt.onnx_files import MODULE_KEY
from mmtrt.tensors import ModelSpec, branch_of

__all__ = ["CONSTANT", "FUSION", "branches_of", "node_modules", "node_name", "nodes_of"]

FUSION = "fusion"
CONSTANT = "constant"
"""What no input reaches."""
_SIZES = {"Shape", "Size"}
"""What passes on how large a value is, and nothing of the value."""


def node_name(node: onnx.NodeProto) -> str:
    """Return a node's name; one that has none is called by its operator and first output, as in a conversion."""
    return node.name or f"{node.op_type}:{node.output[0] if node.output else ''}"


def node_modules(model: onnx.ModelProto) -> dict[str, str]:
    """Return by node the PyTorch module that it came from, of those nodes that tell."""
    found = {}
    for node in model.graph.node:
        told = next((entry.value for entry in node.metadata_props if entry.key == MODULE_KEY), "")
        if told:
            found[node_name(node)] = told
    return found


def nodes_of(model: onnx.ModelProto, spec: ModelSpec) -> Nodes:
    """Return what is known of a model's nodes: branches, modules and operators."""
    ops = {node_name(node): node.op_type for node in model.graph.node}
    return Nodes(branches=branches_of(model, spec), modules=node_modules(model), ops=ops)


def branches_of(model: onnx.ModelProto, spec: ModelSpec) -> dict[str, str]:
    """Return by node the branch that it belongs to; an input without a modality is a modality of its own."""
    nodes = list(model.graph.node)
    below = _reached(nodes, _modalities(spec))
    above = _needed(nodes, [value.name for value in model.graph.output])
    single = len({modality for reached in below.values() for modality in reached}) < 2
    # Of what is fused; of a model of one modality all that there is.
    joined = {name: above[name] for name, reached in below.items() if len(reached) > 1 or (single and reached)}
    forked = {output for outputs in joined.values() if len(outputs) > 1 for output in outputs}
    branches = {}
    for name, reached in below.items():
        output = next(iter(above[name])) if len(above[name]) == 1 else ""
        if name in joined and output in forked:
            branches[name] = f"head:{output}"
        else:
            branches[name] = FUSION if len(reached) > 1 else next(iter(reached), CONSTANT)
    for value in model.graph.output:
        if value.name not in forked:
            fused = {name for name in joined if branches[name] == FUSION and value.name in above[name]}
            branches |= dict.fromkeys(_last_module(model, value.name, fused, below), f"head:{value.name}")
    return branches


def _modalities(spec: ModelSpec) -> dict[str, str]:
    named = {name: modality for modality, inputs in spec.modalities.items() for name in inputs}
    return {tensor.name: named.get(tensor.name, tensor.name) for tensor in spec.inputs}


def _reached(nodes: Sequence[onnx.NodeProto], modalities: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """Return by node the modalities whose values it works on."""
    seen: dict[str, frozenset[str]] = {name: frozenset({modality}) for name, modality in modalities.items()}
    reached = {}
    for node in nodes:
        mine = frozenset[str]().union(*(seen.get(name, frozenset()) for name in _inputs(node)))
        reached[node_name(node)] = mine
        # The size of one modality's batch is no reason to call what it shapes a fusion.
        for name in node.output:
            seen[name] = frozenset() if node.op_type in _SIZES else mine
    return reached


def _needed(nodes: Sequence[onnx.NodeProto], outputs: Iterable[str]) -> dict[str, frozenset[str]]:
    """Return by node the outputs that it is there for."""
    wanted: defaultdict[str, frozenset[str]] = defaultdict(frozenset)
    for name in outputs:
        wanted[name] |= {name}
    needed = {}
    for node in reversed(nodes):
        mine = frozenset[str]().union(*(wanted[name] for name in node.output))
        needed[node_name(node)] = mine
        for name in _inputs(node):
            wanted[name] |= mine
    return needed


def _inputs(node: onnx.NodeProto) -> Iterator[str]:
    """Yield all values that a node reads, those that its subgraphs take from around them too."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            own = {value.name for value in (*graph.input, *graph.initializer)}
            own |= {name for inner in graph.node for name in inner.output}
            yield from (name for inner in graph.node for name in _inputs(inner) if name not in own)


def _last_module(
    model: onnx.ModelProto, output: str, fused: Collection[str], below: Mapping[str, frozenset[str]]
) -> set[str]:
    """Return those of an output's fused nodes that are in the outermost module which makes it.

    There are none where modalities meet in that module, where it is all that is fused, or where it has no name. They
    meet where a node takes values of fewer of them than it gives.
    """
    modules = node_modules(model)
    makers = {name: node_name(node) for node in model.graph.node for name in node.output}
    last = branch_of(modules.get(makers.get(output, ""), ""))
    mine = {name for name in fused if branch_of(modules.get(name, "")) == last}
    if not last or not {branch_of(modules.get(name, last)) for name in fused} - {last}:
        return set()
    for node in model.graph.node:
        if node_name(node) not in mine:
            continue
        sources = [below[makers[value]] for value in _inputs(node) if value in makers]
        if any(source and source != below[node_name(node)] for source in sources):
            return set()
    return mine
