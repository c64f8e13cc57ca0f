"""Where a model's multiply-accumulates are: in convolutions and Linear layers, or in attention's products."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from mmtrt.zoo.blocks.encoders import Attention

_CONVOLUTIONS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def mac_counts(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, int]:
    """Multiply-accumulates of one forward pass: `conv`, `linear` (by weights) and `attention` (by matmul)."""
    counts = {"conv": 0, "linear": 0, "attention": 0}

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, _CONVOLUTIONS):
            counts["conv"] += output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            counts["linear"] += output.numel() * module.in_features
        elif isinstance(module, Attention):
            batch, queries, width = args[0].shape
            counts["attention"] += 2 * batch * queries * args[1].shape[1] * width

    handles = [m.register_forward_hook(hook) for m in model.modules()]
    try:
        with torch.inference_mode():
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return counts


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """Parameters in all, and those that are weights of convolutions and Linear layers."""
    weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, (*_CONVOLUTIONS, nn.Linear)))
    return {"all": sum(p.numel() for p in model.parameters()), "conv_linear_weights": weights}
