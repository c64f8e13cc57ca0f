"""Einsum of two tensors is a matrix product between transpositions.

TensorRT computes an Einsum in FP32 or FP16 only, and its builder fails where the result joins an INT8 product. A MatMul
is what the rest of mmtrt knows to quantise.

1. "..." stands for the axes that no letter names, aligned at the end of it; each becomes a letter.
2. A letter that both sides and the result have is a batch axis; the one that both sides have and the result lacks is
   summed over; those that one side has alone are kept, or summed first where the result lacks them.
3. The left side is transposed to batch, kept, summed, the right one to batch, summed, kept; none or several kept axes
   are one in the product, and what they were after it.
4. A transposition brings the product's axes, batch, left, right, to the order of the result.
5. Where nothing or more than one axis is summed over, a letter stands twice in a term, or there are not two operands,
   the node is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_letters

import onnx_ir as ir

from mmtrt.export.passes.writing import Writer

__all__ = ["apply"]


@dataclass(frozen=True, slots=True)
class _Product:
    """The letters of both terms and of the result."""

    left: str
    right: str
    result: str

    @property
    def batch(self) -> str:
        return "".join(c for c in self.result if c in self.left and c in self.right)

    @property
    def summed(self) -> str:
        return "".join(c for c in self.left if c in self.right and c not in self.result)

    def kept(self, term: str) -> str:
        """Return the letters that a term alone brings to the result, in the result's order."""
        return "".join(c for c in self.result if c in term and c not in self.batch)


def apply(graph: ir.Graph, limits: Mapping[str, int]) -> int:  # noqa: ARG001 -- no size matters
    """Apply the rules above in place; return the number of nodes that were replaced."""
    replaced = 0
    for node in list(graph):
        product = _parsed(node) if node.op_type == "Einsum" and node.domain == "" else None
        if product is not None:
            _write(Writer(graph, node), node, product)
            replaced += 1
    return replaced


def _parsed(node: ir.Node) -> _Product | None:
    """Return what a node says, None where rule 5 leaves it."""
    equation = (node.attributes.get_string("equation", "") or "").replace(" ", "")
    terms, arrow, result = equation.partition("->")
    sides = terms.split(",")
    shapes = [value.shape for value in node.inputs if value is not None and value.shape is not None]
    if not arrow or len(sides) != 2 or len(shapes) != 2:
        return None
    # Rule 1: the last of these letters is the last axis that "..." stands for.
    spare = "".join(c for c in ascii_letters if c not in equation)
    counts = [
        len(shape) - len(side.replace("...", "")) if "..." in side else 0
        for side, shape in zip(sides, shapes, strict=True)
    ]
    named = [
        side.replace("...", spare[max(counts) - count : max(counts)]) for side, count in zip(sides, counts, strict=True)
    ]
    product = _Product(named[0], named[1], result.replace("...", spare[: max(counts)]))
    once = all(len(set(term)) == len(term) for term in (product.left, product.right, product.result))
    return product if once and len(product.summed) == 1 else None


def _write(write: Writer, node: ir.Node, product: _Product) -> None:
    batch, summed = product.batch, product.summed
    keeps = product.kept(product.left), product.kept(product.right)
    left = _side(write, node.inputs[0], product.left, batch + keeps[0] + summed)
    right = _side(write, node.inputs[1], product.right, batch + summed + keeps[1])
    merged = [left, right]
    if len(keeps[0]) != 1:
        shape = [write.shape(left, 0, len(batch)), write.integers(-1), write.shape(left, -1)]
        merged[0] = _reshaped(write, left, shape)
    if len(keeps[1]) != 1:
        merged[1] = _reshaped(write, right, [write.shape(right, 0, len(batch) + 1), write.integers(-1)])
    made = write.node("MatMul", merged)
    if len(keeps[0]) != 1 or len(keeps[1]) != 1:
        parts = [
            write.shape(made, 0, len(batch)),
            write.shape(left, len(batch), len(batch) + len(keeps[0])),
            write.shape(right, len(batch) + 1, len(batch) + 1 + len(keeps[1])),
        ]
        made = _reshaped(write, made, parts)
    write.finish(_transposed(write, made, batch + keeps[0] + keeps[1], product.result))


def _side(write: Writer, value: ir.Value | None, term: str, wanted: str) -> ir.Value:
    """Sum over what only this side has and the result lacks, then bring the axes into order."""
    assert value is not None  # noqa: S101 -- an Einsum's operands are not optional
    alone = [index for index, letter in enumerate(term) if letter not in wanted]
    if alone:
        value = write.node("ReduceSum", [value, write.integers(*alone)], ir.AttrInt64("keepdims", 0))
        term = "".join(letter for letter in term if letter in wanted)
    return _transposed(write, value, term, wanted)


def _transposed(write: Writer, value: ir.Value, letters: str, wanted: str) -> ir.Value:
    if letters == wanted:
        return value
    return write.node("Transpose", [value], ir.AttrInt64s("perm", [letters.index(letter) for letter in wanted]))


def _reshaped(write: Writer, value: ir.Value, parts: Sequence[ir.Value]) -> ir.Value:
    shape = write.node("Concat", parts, ir.AttrInt64("axis", 0))
    return write.node("Reshape", [value, shape])
