"""Masks of padding that transformers makes: one row for all queries.

Looks for masks that `transformers.masking_utils` makes for attention that is neither causal nor windowed.

1. Such a mask says of each key whether it is padding, the same to each query: `(B, 1, 1, K)` says it to any number of
   queries. The library writes it out for as many queries as its embeddings have, `(B, 1, Q, K)`. Where a module attends
   with fewer, as a Q-Former's query tokens look at an image while its text does not, that is an error: eager PyTorch
   never meets it, since a mask without padding is left out after a look at its values, which no graph can take.
2. Where the library must not leave a mask out, it is joined with others and stays as it is.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

__all__ = ["patched"]

_INTERFACES = ("eager", "sdpa")


@contextlib.contextmanager
def patched(module: torch.nn.Module, tell: Callable[[], None]) -> Iterator[None]:  # noqa: ARG001 -- the library is asked
    """Apply the rules above while the context lasts."""
    masking: Any = sys.modules.get("transformers.masking_utils")
    if masking is None:
        yield
        return
    known = masking.ALL_MASK_ATTENTION_FUNCTIONS
    before = {name: known[name] for name in _INTERFACES}
    for name, make in before.items():
        known[name] = _one_row(make, masking.bidirectional_mask_function, tell)
    try:
        yield
    finally:
        for name, make in before.items():
            del known[name]
            if known[name] is not make:  # it was this interface's own already
                known[name] = make


def _one_row(make: Callable[..., Any], bidirectional: object, tell: Callable[[], None]) -> Callable[..., Any]:
    @functools.wraps(make)
    def made(*args: Any, **kwargs: Any) -> Any:
        alone = kwargs.get("allow_is_bidirectional_skip") and not kwargs.get("use_vmap")
        if alone and kwargs.get("mask_function") is bidirectional and "q_length" in kwargs:
            tell()
            kwargs["q_length"] = 1
        return make(*args, **kwargs)

    return made
