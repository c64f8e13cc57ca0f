"""Which values are per token, and which input says that a token is padding: it has no say in the ranges."""

from __future__ import annotations

import onnx

from mmtrt.tensors import ModelSpec

__all__ = ["token_masks"]

_Axes = tuple[int | str, int | str]


def token_masks(model: onnx.ModelProto, spec: ModelSpec) -> dict[str, str]:
    """Map each value `(B, T, ...)` to the input `(B, T)` that masks its tokens.

    A mask is an integer or boolean input with "mask" in its name and a named first axis, 0 where a token is padding.
    Names with "pad" are left alone: frameworks differ in what a padding mask's 1 says. A value is masked where its
    first axes are the mask's, by name or by size, and where it is computed from an input with these axes, so that
    image tokens of the same number are not taken for words.
    """
    masks: dict[_Axes, str] = {}
    for tensor in spec.inputs:
        name = tensor.name.lower()
        if "mask" in name and "pad" not in name and len(tensor.shape) == 2 and not tensor.dtype.startswith("float"):
            batch, tokens = tensor.shape
            if isinstance(batch, str):
                masks.setdefault((batch, tokens), tensor.name)
    found: dict[str, str] = {}
    for axes, mask in masks.items():
        starts = {tensor.name for tensor in spec.inputs if tuple(tensor.shape[:2]) == axes and tensor.name != mask}
        reached = _reached(model, starts or {mask})
        for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
            dims = value.type.tensor_type.shape.dim
            if len(dims) >= 3 and value.name in reached and tuple(map(_size, dims[:2])) == axes:
                found[value.name] = mask
    return found


def _size(dim: onnx.TensorShapeProto.Dimension) -> int | str:
    return dim.dim_param or dim.dim_value


def _reached(model: onnx.ModelProto, starts: set[str]) -> set[str]:
    """Return the values that are computed from these."""
    reached = set(starts)
    for node in model.graph.node:
        if reached.intersection(node.input):
            reached.update(node.output)
    return reached
