"""JSON data from what Python computes with."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["plain", "unplaced"]


def plain(value: Any) -> Any:
    """Return JSON data: NaN and infinities become None, NumPy's numbers Python's, tuples lists, paths text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    return str(value)


_ABSOLUTE = re.compile(r"(?<![^\s\"'(=:,])/(?P<first>[^/\s\"'(),:]+)/(?:[^/\s\"'(),:]+/)*(?P<name>[^/\s\"'(),:]*)")


def unplaced(data: Any) -> Any:
    """Return JSON data in whose texts a path of this machine is the file's name alone: what goes to others tells none.

    A path is absolute, and its first folder is one that there is here: nodes' names look like paths too.
    """
    if isinstance(data, Mapping):
        return {key: unplaced(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [unplaced(value) for value in data]
    return _ABSOLUTE.sub(_named, data) if isinstance(data, str) else data


def _named(found: re.Match[str]) -> str:
    return found["name"] if Path("/", found["first"]).is_dir() else found[0]
