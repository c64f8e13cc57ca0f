"""Which tensors of two graphs mean the same.

1. Inputs and outputs of the graphs by name: that is what both promise.
2. Within a module nodes pair by the name of what they compute, where each such name means one operation on both sides
   in one order: so in a graph that was converted or edited.
3. Else, as in a graph that was exported again, where one node less gives all behind it other names: the heaviest common
   subsequence of the module's nodes, by operation, weights and name.
4. What a module gives away pairs in order where nothing inside did: a Conv with its BatchNormalization in its weights
   is that BatchNormalization to who reads it.

Tensors of different shapes or kinds are told apart when they are run; so are those whose meaning a conversion moved to
who reads them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx

from mmtrt.parity.subgraphs import NEUTRAL, Part, note_of

__all__ = ["Alignment", "added", "align", "without"]

_BALANCED = (".balanced_scale", ".balanced_bias")
"""Weights of a LayerNormalization that INT8 balances: what it returns has another meaning than its name."""
_CORRECTED = ".corrected_bias"
"""Such a bias takes back what was moved into the product before it, which has another meaning until then."""
_CONVERTED = (".masked", ".hidden", ".balance.mul", ".shift.add")
"""How nodes are named that a conversion of ours adds beside the model's own."""
_STORED = (".fp16", ".fp32")
_TABLE = 4_000_000
"""Cells of the largest table that nodes are aligned in; longer sequences pair where their ends agree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """`tensors` maps the candidate's to the reference's; `paired` holds the nodes of each that have a counterpart."""

    tensors: Mapping[str, str]
    reference_paired: frozenset[int]
    candidate_paired: frozenset[int]


def without(alignment: Alignment, names: Collection[str]) -> Alignment:
    """Return the alignment but for some of the candidate's tensors."""
    return replace(alignment, tensors={n: told for n, told in alignment.tensors.items() if n not in names})


@dataclass(slots=True)
class _Pairing:
    reference: Part
    candidate: Part
    nodes: dict[int, int] = field(default_factory=dict)
    """Candidate's nodes to the reference's."""
    shared: frozenset[str] = frozenset()
    """Weights that both have."""

    def __post_init__(self) -> None:
        self.shared = frozenset(self.reference.weights.keys() & self.candidate.weights.keys())

    def pair(self, theirs: int, ours: int) -> None:
        self.nodes[ours] = theirs


def align(reference: Part, candidate: Part) -> Alignment:
    """Pair the tensors of two graphs by the rules above."""
    found = _Pairing(reference, candidate)
    modules = _by_module(reference), _by_module(candidate)
    for module, theirs in modules[0].items():
        ours = modules[1].get(module, [])
        if ours and not _pair_by_name(found, theirs, ours):
            _pair_in_order(found, theirs, ours)
    tensors: dict[str, str] = {}
    for right, left in found.nodes.items():
        made = zip(candidate.nodes[right].output, reference.nodes[left].output, strict=False)
        tensors |= {got: told for got, told in made if candidate.varies(got) and reference.varies(told)}
    for module, theirs in modules[0].items():
        tensors.update(_exits(found, module, theirs, modules[1].get(module, []), tensors))
    for node in candidate.nodes:
        if any(mark in name for name in node.input for mark in _BALANCED):
            for name in node.output:
                tensors.pop(name, None)
        if any(_CORRECTED in name for name in node.input):
            for name in node.input:
                tensors.pop(name, None)
    known = {*reference.inputs, *reference.outputs}
    tensors.update({name: name for name in (*candidate.inputs, *candidate.outputs) if name in known})
    return Alignment(
        tensors=tensors,
        reference_paired=_makers(reference, tensors.values()) | frozenset(found.nodes.values()),
        candidate_paired=_makers(candidate, tensors) | frozenset(found.nodes),
    )


def _makers(part: Part, names: Iterable[str]) -> frozenset[int]:
    return frozenset(part.makers[name] for name in names if name in part.makers)


def added(node: onnx.NodeProto) -> bool:
    """Tell whether a node is one that conversions add, which means nothing by itself."""
    return node.op_type in NEUTRAL or node.name.endswith(_CONVERTED)


def _by_module(part: Part) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for index in part.moving:
        node = part.nodes[index]
        if not node.op_type.endswith("QuantizeLinear") and not node.op_type.startswith("Dequantize"):
            found.setdefault(note_of(node), []).append(index)
    return found


def _named(part: Part, indices: Sequence[int]) -> dict[str, int]:
    """Return nodes by what they compute; an output that was cast back has the name, its node the work."""
    found = {}
    for index in indices:
        node = part.nodes[index]
        name = node.output[0] if node.output else ""
        if node.op_type == "Cast" and name in part.outputs and node.input[0] in part.makers:
            continue
        for suffix in _STORED:
            if name.endswith(suffix) and name.removesuffix(suffix) in part.outputs:
                name = name.removesuffix(suffix)
        found[name] = index
    return found


def _pair_by_name(found: _Pairing, theirs: Sequence[int], ours: Sequence[int]) -> bool:
    """Apply rule 2; tell whether it holds."""
    told, got = _named(found.reference, theirs), _named(found.candidate, ours)
    common = [name for name in told if name in got]
    order = [got[name] for name in common]
    if not common or 2 * len(common) < min(len(told), len(got)) or order != sorted(order):
        return False
    for name in common:
        left, right = found.reference.nodes[told[name]], found.candidate.nodes[got[name]]
        if left.op_type != right.op_type or _conflict(found, told[name], got[name]):
            return False
    for name in common:
        found.pair(told[name], got[name])
    return True


def _conflict(found: _Pairing, theirs: int, ours: int) -> bool:
    """Tell whether two nodes read weights that both graphs have, and not the same."""
    left, right = found.reference.roots(theirs), found.candidate.roots(ours)
    return bool(left & found.shared and right & found.shared and not left & right)


def _pair_in_order(found: _Pairing, theirs: Sequence[int], ours: Sequence[int]) -> None:
    """Apply rule 3."""
    a = [index for index in theirs if not added(found.reference.nodes[index])]
    b = [index for index in ours if not added(found.candidate.nodes[index])]
    # Most sequences are the same from both ends up to where a node is missing.
    while a and b and _score(found, a[0], b[0]) > 1:
        found.pair(a.pop(0), b.pop(0))
    while a and b and _score(found, a[-1], b[-1]) > 1:
        found.pair(a.pop(), b.pop())
    if len(a) * len(b) <= _TABLE:
        for left, right in _heaviest(found, a, b):
            found.pair(left, right)


def _heaviest(found: _Pairing, a: Sequence[int], b: Sequence[int]) -> list[tuple[int, int]]:
    """Return the heaviest common subsequence, as pairs."""
    scores = [[_score(found, left, right) for right in b] for left in a]
    best = np.zeros((len(a) + 1, len(b) + 1))
    for i in reversed(range(len(a))):
        for j in reversed(range(len(b))):
            both = scores[i][j] + best[i + 1, j + 1] if scores[i][j] else 0.0
            best[i, j] = max(both, best[i + 1, j], best[i, j + 1])
    pairs = []
    i = j = 0
    while i < len(a) and j < len(b):
        if scores[i][j] and best[i, j] == scores[i][j] + best[i + 1, j + 1]:
            pairs.append((a[i], b[j]))
            i, j = i + 1, j + 1
        elif best[i, j] == best[i + 1, j]:
            i += 1
        else:
            j += 1
    return pairs


def _score(found: _Pairing, theirs: int, ours: int) -> float:
    """0 where two nodes do something else; more than 1 where more than the operation says that they are the same."""
    left, right = found.reference.nodes[theirs], found.candidate.nodes[ours]
    if left.op_type != right.op_type:
        return 0.0
    if _conflict(found, theirs, ours):
        return 0.25
    told, got = found.reference.roots(theirs), found.candidate.roots(ours)
    same = bool(told & got) or not (told or got)
    return 1.0 + 2.0 * bool(told & got) + 0.5 * (same and list(left.output) == list(right.output))


def _exits(
    found: _Pairing, module: str, theirs: Sequence[int], ours: Sequence[int], known: Mapping[str, str]
) -> dict[str, str]:
    """Apply rule 4."""
    told = [name for name in _given_away(found.reference, module, theirs) if name not in known.values()]
    got = [name for name in _given_away(found.candidate, module, ours) if name not in known]
    return dict(zip(got, told, strict=True)) if len(told) == len(got) else {}


def _given_away(part: Part, module: str, indices: Sequence[int]) -> list[str]:
    """Return what nodes of other modules read of a module, casts and Q/DQ between left aside."""
    found: list[str] = []
    for index in indices:
        if added(part.nodes[index]):
            continue
        found += [
            name
            for name in part.nodes[index].output
            if name and (name in part.outputs or any(other != module for other in _readers_modules(part, name)))
        ]
    return found


def _readers_modules(part: Part, name: str) -> set[str]:
    found = set()
    for reader in part.readers.get(name, []):
        node = part.nodes[reader]
        if node.op_type in NEUTRAL:
            found |= {module for output in node.output for module in _readers_modules(part, output)}
        else:
            found.add(note_of(node))
    return found
