"""Which nodes become INT8, and which values then carry Q/DQ.

1. Conv, ConvTranspose, Gemm and MatMul with a constant weight are quantised: their activation and their weight,
   never their output.
2. The last classifier, a weighted node whose result reaches an output over nothing but shape changes and bias
   adds, stays float.
3. Products of two activations (attention) stay float: Q/DQ around them breaks the fusions that the builder
   has for attention, and they are a small part of the work.
4. Where a Conv's result is added to another branch, that branch is quantised, so that Conv, Add and ReLU stay
   one INT8 kernel.
5. A convolution that reads an image of up to four channels stays float where that leaves 95 % of the work: what it
   rounds away all others build upon.
6. A product that computes where to look stays float (`places.py`): of 127 steps each is many pixels wide.
7. A product of one column stays float beside a wider one of the same input, whatever the coverage: INT8 gains nothing
   by it, and TensorRT-RTX fails where it merges the two.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir

from mmtrt.precision.graph import MacNode, attribute, constant, module_of
from mmtrt.precision.places import place_nodes

__all__ = ["COVERAGES", "Kept", "Plan", "make_plan"]

COVERAGES = ("wide", "full", "all", "engine")
"""By the rules above; every product but those of rules 5 to 7; every product but those of rules 6 and 7; and, of what
the rules allow, what the engine gains by (`placement.py`)."""

_SHAPE_OPS = {"Reshape", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Flatten", "Cast", "Slice"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A node that could be INT8 and is not, and why."""

    node: str
    module: str
    precision: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `make_plan` decided: nodes to quantise, residual uses `(node, input index)`, and what is kept."""

    nodes: tuple[MacNode, ...]
    residuals: tuple[tuple[ir.Node, int], ...]
    kept: tuple[Kept, ...]
    pads: bool = False
    """Whether a convolution's border may be padded before its input is quantised, which takes a step of its own."""

    def values(self) -> list[str]:
        """Names of the activations that need a range, in the graph's order, each once."""
        names = [_name(node.node.inputs[i]) for node in self.nodes for i in node.activations]
        names += [_name(node.inputs[i]) for node, i in self.residuals]
        return list(dict.fromkeys(names))


def _name(value: ir.Value | None) -> str:
    assert value is not None  # noqa: S101 -- a planned operand exists
    return value.name or ""


def make_plan(nodes: list[MacNode], *, keep: Collection[str] = (), coverage: str = "wide") -> Plan:
    """Apply the rules above; `keep` names nodes or modules that stay float whatever the rules say.

    With `coverage` "full" rules 2 to 4 are left out: every other product is quantised, and nothing but products. With
    "all" rule 5 is left out too.
    """
    full = coverage in {"full", "all"}
    chosen: list[MacNode] = []
    kept: list[Kept] = []
    special = {mac.node: "it reads an image of few channels" for mac in ([] if coverage == "all" else _stems(nodes))}
    special |= {mac.node: "it computes where to look" for mac in _places(nodes)}
    special |= {mac.node: "a product of one column" for mac in nodes if _narrow(mac, nodes)}
    for mac in nodes:
        why = _why_not(mac, keep, full=full) or special.get(mac.node)
        if why:
            kept.append(Kept(node=mac.name, module=module_of(mac.node), precision="fp16", why=why))
        else:
            chosen.append(mac)
    residuals = () if full else tuple(_residuals(chosen))
    return Plan(nodes=tuple(chosen), residuals=residuals, kept=tuple(kept), pads=full)


def _why_not(mac: MacNode, keep: Collection[str], *, full: bool) -> str | None:
    if any(value is None for value in mac.node.inputs[:2]):
        return "it lacks an operand"
    if mac.weight is None and not full:
        return "a product of two activations"
    module = module_of(mac.node)
    if mac.name in keep or any(module == k or module.startswith(f"{k}.") for k in keep):
        return "asked to be kept"
    if _reaches_output(mac.node.outputs[0]) and not full:
        return "the last layer before an output"
    return None


def _narrow(mac: MacNode, nodes: list[MacNode]) -> bool:
    """Tell whether a product has one column, and a wider one reads the same input."""
    if _columns(mac) != 1:
        return False
    read = [mac.node.inputs[index] for index in mac.activations]
    return any((_columns(other) or 1) > 1 and value in read for other in nodes for value in other.node.inputs[:2])


def _columns(mac: MacNode) -> int | None:
    weight = mac.node.inputs[mac.weight] if mac.weight is not None else None
    if mac.node.op_type not in {"Gemm", "MatMul"} or mac.channel_axis is None or weight is None or weight.shape is None:
        return None
    size = weight.shape[mac.channel_axis]
    return size if isinstance(size, int) else None


def _places(nodes: list[MacNode]) -> list[MacNode]:
    """Return the products of rule 6."""
    graphs = {graph for mac in nodes if isinstance(graph := mac.node.graph, ir.Graph)}
    found = {node for graph in graphs for node in place_nodes(graph)}
    return [mac for mac in nodes if mac.node in found]


_IMAGE_CHANNELS = 4
_STEM_SHARE = 0.05
_PREPARES = {"Cast", "Sub", "Div", "Mul", "Add", "Transpose", "Reshape", "Identity", "Pad"}


def _stems(nodes: list[MacNode]) -> list[MacNode]:
    """Return the convolutions of rule 5; none where they are too much of the work."""
    stems = [mac for mac in nodes if _few_channels(mac) and _is_input(mac.node.inputs[0])]
    total = sum(mac.macs for mac in nodes)
    return stems if total and sum(mac.macs for mac in stems) <= _STEM_SHARE * total else []


def _few_channels(mac: MacNode) -> bool:
    weight = mac.node.inputs[1] if len(mac.node.inputs) > 1 else None
    if mac.node.op_type != "Conv" or weight is None or weight.shape is None or attribute(mac.node, "group", 1) > 1:
        return False
    channels = weight.shape[1]
    return isinstance(channels, int) and channels <= _IMAGE_CHANNELS


def _is_input(value: ir.Value | None) -> bool:
    """Tell whether a value is a graph input, as it came or normalised by constants."""
    while value is not None and not value.is_graph_input():
        node = value.producer()
        if node is None or node.op_type not in _PREPARES:
            return False
        value = next((each for each in node.inputs if constant(each) is None), None)
    return value is not None


def _reaches_output(value: ir.Value) -> bool:
    if value.is_graph_output():
        return True
    for node, _ in value.uses():
        bias = node.op_type == "Add" and any(constant(other) is not None for other in node.inputs)
        if (node.op_type in _SHAPE_OPS or bias) and _reaches_output(node.outputs[0]):
            return True
    return False


def _residuals(chosen: list[MacNode]) -> list[tuple[ir.Node, int]]:
    """Return the uses by Add of a branch that joins a quantised Conv's result."""
    convs = {mac.node for mac in chosen if mac.node.op_type in {"Conv", "ConvTranspose"}}
    found: list[tuple[ir.Node, int]] = []
    seen: set[ir.Node] = set()
    for mac in chosen:
        if mac.node not in convs:
            continue
        for add, index in mac.node.outputs[0].uses():
            other = add.inputs[1 - index] if add.op_type == "Add" and len(add.inputs) == 2 else None
            if add in seen or other is None or constant(other) is not None or add.outputs[0].is_graph_output():
                continue
            seen.add(add)
            found.append((add, _branch(add, convs)))
    return found


def _branch(add: ir.Node, convs: set[ir.Node]) -> int:
    """Return the input of the Add that is quantised: the one that no Conv made, else the later Conv's is fused."""
    made = [value is not None and value.producer() in convs for value in add.inputs]
    return made.index(False) if False in made else 1
