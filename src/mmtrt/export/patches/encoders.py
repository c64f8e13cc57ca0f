"""PyTorch's fast paths through its own attention and encoders, written out.

Looks for `nn.MultiheadAttention`, `nn.TransformerEncoder` and its layers, which take one fused operator in inference:

1. The fused operators stay out of the graph: they have no ONNX form. What they compute is what the modules' own
   Python says, except in a row that sees nothing, where they give NaN and the Python zeros: the graph has zeros.
2. An encoder that packs its padded batch into a nested tensor gives back zeros at padded places. It packs where the
   padding of each row is at its end; the graph looks at the mask too, and puts zeros where PyTorch does.
   A batch of nothing but padding can't be packed: PyTorch raises, the graph says what the layers say.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from mmtrt.export.patches.replacing import replaced

__all__ = ["patched"]


@contextlib.contextmanager
def patched(module: nn.Module, tell: Callable[[], None]) -> Iterator[None]:
    """Apply the rules above while the context lasts."""
    kinds = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
    if not any(isinstance(part, kinds) for part in module.modules()):
        yield
        return
    tell()
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(value=False)
    try:
        with contextlib.ExitStack() as stack:
            for part in module.modules():
                if isinstance(part, nn.TransformerEncoder) and getattr(part, "use_nested_tensor", False):
                    stack.enter_context(replaced(part, "forward", _Packing(part)))
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


class _Packing:
    """Stands in for the `forward` of one encoder that would pack."""

    def __init__(self, encoder: nn.TransformerEncoder) -> None:
        self.encoder = encoder
        self.forward = encoder.forward

    def __call__(
        self,
        src: torch.Tensor,
        mask: torch.Tensor | None = None,
        src_key_padding_mask: torch.Tensor | None = None,
        is_causal: Any = None,
    ) -> torch.Tensor:
        """Take and return what `nn.TransformerEncoder.forward` does, `(B, T, D)`."""
        padding = src_key_padding_mask
        if padding is None or mask is not None or src.dim() != 3:
            return self.forward(src, mask=mask, src_key_padding_mask=padding, is_causal=is_causal)
        norm, self.encoder.norm = self.encoder.norm, None
        try:
            hidden = self.forward(src, src_key_padding_mask=padding, is_causal=is_causal)
        finally:
            self.encoder.norm = norm
        absent = padding if padding.dtype == torch.bool else padding != 0
        zeroed = torch.where((absent & _packs(absent))[..., None], torch.zeros_like(hidden), hidden)
        return zeroed if norm is None else norm(zeroed)


def _packs(absent: torch.Tensor) -> torch.Tensor:
    """Tell whether a batch `(B, T)` is padded at the ends only, and not as a whole."""
    return (absent[:, 1:] | ~absent[:, :-1]).all() & ~absent.all()
