"""What a module is given while it is traced: formulations that export, where its own do not or say something else.

Each patch is a context manager, `patched(module, tell)`, in a file of its own: it looks for a cause, never for a
model's name, replaces what it finds with what is equal on valid inputs, and puts everything back, after an error too.
`tell` hears the patch's name once it did anything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import AbstractContextManager

import torch

from mmtrt.export.patches import bags, encoders, grids, layouts, lengths, padding

__all__ = ["ORDER", "patched"]

Patch = Callable[[torch.nn.Module, Callable[[], None]], AbstractContextManager[None]]
ORDER: Mapping[str, Patch] = {
    "bags": bags.patched,
    "encoders": encoders.patched,
    "grids": grids.patched,
    "layouts": layouts.patched,
    "lengths": lengths.patched,
    "padding": padding.patched,
}


@contextlib.contextmanager
def patched(module: torch.nn.Module, tell: Callable[[str], None], without: Container[str] = ()) -> Iterator[None]:
    """Apply all patches but some to a module, in this order; `tell` hears the names of those that found something."""
    with contextlib.ExitStack() as stack:
        for name, patch in ORDER.items():
            if name not in without:
                stack.enter_context(patch(module, _teller(name, tell)))
        yield


def _teller(name: str, tell: Callable[[str], None]) -> Callable[[], None]:
    return lambda: tell(name)
