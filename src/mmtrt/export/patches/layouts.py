"""What attention returns is laid out anew, whichever kernel made it.

Looks for calls of `scaled_dot_product_attention`.

PyTorch's kernels lay their results out differently, heads before tokens or after, and which kernel is chosen differs
between the exporter's passes over a module. A module's own `contiguous` is recorded only where it moves anything, so
one pass can be told of a layout that another has not, and a `view` behind it is refused: so it is for windows whose
number depends on the batch, with a learned mask. A copy right behind the attention makes all passes alike; an ONNX
graph has no layouts, and drops it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional

from mmtrt.export.patches.replacing import replaced

__all__ = ["patched"]


@contextlib.contextmanager
def patched(module: torch.nn.Module, tell: Callable[[], None]) -> Iterator[None]:  # noqa: ARG001 -- a call is looked for
    """Apply the rule above while the context lasts."""
    original = functional.scaled_dot_product_attention

    @functools.wraps(original)
    def attention(*args: Any, **kwargs: Any) -> torch.Tensor:
        tell()
        return original(*args, **kwargs).clone(memory_format=torch.contiguous_format)

    with replaced(functional, "scaled_dot_product_attention", attention):
        yield
