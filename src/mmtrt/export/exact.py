"""The exporter's optimizer, made to take a number for 0 or 1 only where it is.

Its rules match constants within 1e-8, so `x / (norm + 1e-10)` loses the epsilon, and what it guarded becomes NaN.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from onnxscript import rewriter

__all__ = ["exact_constants"]

_TOLERANCES = ("_rel_tol", "_abs_tol")


@contextlib.contextmanager
def exact_constants() -> Iterator[None]:
    """Let the optimizer's rules match constants exactly while the context lasts."""
    before = [(constant, name, getattr(constant, name)) for constant in _constants() for name in _TOLERANCES]
    try:
        for constant, name, _ in before:
            setattr(constant, name, 0.0)
        yield
    finally:
        for constant, name, value in before:
            setattr(constant, name, value)


def _constants() -> Iterator[Any]:
    """Yield the constants in the patterns of the rules; none where another version keeps them elsewhere."""
    for rule in getattr(rewriter, "_DEFAULT_REWRITE_RULES", ()):
        for node in getattr(rule, "_target_pattern", ()):
            for value in node.inputs:
                if all(hasattr(value, name) for name in _TOLERANCES):
                    yield value
