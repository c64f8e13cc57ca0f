"""JSON that everybody reads the same way: UTF-8, no key twice, no number too large, nothing deep, nothing to obey.

Readers disagree on all of these, and what verifies must not read anything else than what loads.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

__all__ = ["DEPTH", "VALUES", "plain_json"]

DEPTH = 32
"""How deep lists and objects may stand in one another."""

VALUES = 200_000
"""How many values there may be: an empty list takes three bytes of text, and twenty times as many of memory."""

_DIGITS = 20  # of an integer: what 64 bits hold
# Of strings that people are shown, a terminal would obey some.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def plain_json(data: bytes) -> Any:
    """Return what JSON text says; ValueError (or RecursionError) where it is none, or where readers could disagree."""
    # Each value but the first of a list or an object stands behind a comma.
    if sum(map(data.count, (b",", b"[", b"{"))) > VALUES:
        raise ValueError(f"it has more than {VALUES} values")
    told = json.loads(
        data.decode("utf-8"), object_pairs_hook=_once, parse_int=_integer, parse_float=_float, parse_constant=_none
    )
    _check(told)
    return told


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > _DIGITS or not -(2**63) <= (value := int(text)) < 2**64:
        raise ValueError("a whole number has more than 64 bits")
    return value


def _float(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError("a number is too large")
    return value


def _none(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _check(told: Any) -> None:
    """Hold depth and strings to what is allowed, level by level, since a recursion has a limit of its own."""
    level = [told]
    for _ in range(DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += [*value, *value.values()]
            elif isinstance(value, list):
                below += value
            elif isinstance(value, str) and _CONTROL.search(value):
                raise ValueError("a text holds a control character")
        if not below:
            return
        level = below
    raise ValueError(f"it is deeper than {DEPTH} levels")
