"""`len` of a tensor stays a symbol.

Looks for calls of `len` in the Python modules that the parts of a module are written in.

Python's `len` returns a plain integer, so `len(ids)` makes the size that was traced a constant, and a batch of two is
all that the graph takes; a comparison of two batches is enough. While a module is traced, `len` in these files says
`shape[0]` of a tensor, which is the same number and may be a symbol. Where Python itself needs an integer, in `range`,
it becomes a constant as before.
"""

from __future__ import annotations

import builtins
import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

from mmtrt.export.patches.replacing import replaced

__all__ = ["patched"]


@contextlib.contextmanager
def patched(module: torch.nn.Module, tell: Callable[[], None]) -> Iterator[None]:
    """Apply the rule above while the context lasts."""

    def length(given: Any) -> Any:
        size: Any = given.shape[0] if isinstance(given, torch.Tensor) and given.dim() else None
        if not isinstance(size, torch.SymInt):
            return builtins.len(given)
        tell()
        return size

    names = {type(part).__module__ for part in module.modules()}
    files = [sys.modules[name] for name in sorted(names) if name in sys.modules and not name.startswith("torch.")]
    with contextlib.ExitStack() as stack:
        for file in files:
            if "len" not in vars(file):
                stack.enter_context(replaced(file, "len", length))
        yield
