"""PyTorch operators that mmtrt writes in ONNX itself: the exporter lacks them, or says something else than PyTorch.

One module per kind, each with a `TABLE` from the operator's overload to a function that writes it with onnxscript's
operators of opset 18. TensorRT's parser takes all that they write: no loops, no sequences.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from mmtrt.export.translations import attention, cumulative, search, truth

__all__ = ["ORDER", "table"]

Translation = Callable[..., Any]
ORDER: Mapping[str, Mapping[Any, Translation]] = {
    "attention": attention.TABLE,
    "cumulative": cumulative.TABLE,
    "search": search.TABLE,
    "truth": truth.TABLE,
}


def table(tell: Callable[[str], None]) -> dict[Any, Translation]:
    """Return all translations for `torch.onnx.export`; `tell` hears the name of each kind that is used."""
    return {operator: _telling(kind, write, tell) for kind, made in ORDER.items() for operator, write in made.items()}


def _telling(kind: str, write: Translation, tell: Callable[[str], None]) -> Translation:
    @functools.wraps(write)
    def told(*args: Any, **kwargs: Any) -> Any:
        tell(kind)
        return write(*args, **kwargs)

    return told
