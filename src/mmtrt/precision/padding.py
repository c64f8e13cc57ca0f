"""Which values are per token, and which input says that a token is padding: it has no say in the ranges."""

from __future__ import annotations

import onnx

from mmtrt.tensors import ModelSpec

__all__ = ["token_masks"]


def token_masks(model: onnx.ModelProto, spec: ModelSpec) -> dict[str, str]:
    """Map each value `(B, T, ...)` to the input `(B, T)` that masks its tokens, by the names of the axes.

    A mask is an integer or boolean input with "mask" in its name and two named axes, 0 where a token is padding.
    """
    masks: dict[tuple[str, str], str] = {}
    for tensor in spec.inputs:
        if "mask" in tensor.name.lower() and len(tensor.shape) == 2 and not tensor.dtype.startswith("float"):
            batch, tokens = tensor.shape
            if isinstance(batch, str) and isinstance(tokens, str):
                masks.setdefault((batch, tokens), tensor.name)
    found: dict[str, str] = {}
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if len(dims) >= 3 and (dims[0].dim_param, dims[1].dim_param) in masks:
            found[value.name] = masks[dims[0].dim_param, dims[1].dim_param]
    return found
