"""Sweeps: which sizes of a model are measured, from `batch=1,2,4,8` and `text=4..64x2`."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence

from mmtrt.errors import UsageError

__all__ = ["parse_sweeps", "shapes_of"]

_MOST = 500
"""Shapes in one call: at 3 s each they take half an hour."""
_RANGE = re.compile(r"(?P<low>\d+)\.\.(?P<high>\d+)(?:(?P<how>[x+])(?P<step>\d+))?")
_HOW = "Write it as batch=1,2,4,8 or batch=1..16x2 (doubled) or text=8..64+8 (eight more)."


def parse_sweeps(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Read sweeps, `name=SIZES` each, to the sizes by name; UsageError quotes what can't be read."""
    found: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, equals, sizes = (part.strip() for part in text.partition("="))
        if not (name and equals and sizes):
            raise UsageError(f"can't read the sweep {text!r}", fix=_HOW)
        if name in found:
            raise UsageError(f"{name!r} is swept twice", fix=f"Put all its sizes into one: --sweep {name}=1,2,4.")
        found[name] = tuple(size for part in sizes.split(",") for size in _sizes(part.strip(), text))
        twice = {size for size in found[name] if found[name].count(size) > 1}
        if twice:
            raise UsageError(f"the sweep {text!r} names {min(twice)} twice", fix="Name each size once.")
    count = math.prod(map(len, found.values()))
    if count > _MOST:
        raise UsageError(f"the sweeps make {count} shapes", fix=f"Measure at most {_MOST} in one call.")
    return found


def _sizes(part: str, whole: str) -> Iterator[int]:
    """Yield the sizes that a number or a range names."""
    if part.isdecimal() and int(part) > 0:
        yield int(part)
        return
    match = _RANGE.fullmatch(part)
    if match is None or not int(match["low"]):
        raise UsageError(f"can't read {part!r} in the sweep {whole!r}: sizes are whole numbers from 1", fix=_HOW)
    size, high, step = int(match["low"]), int(match["high"]), int(match["step"] or 1)
    if size > high or step < 1 or (match["how"] == "x" and step < 2):
        raise UsageError(f"the range {part!r} in the sweep {whole!r} goes nowhere", fix=_HOW)
    for _ in range(_MOST + 1):
        if size > high:
            return
        yield size
        size = size * step if match["how"] == "x" else size + step


def shapes_of(sweeps: Mapping[str, Sequence[int]]) -> list[dict[str, int]]:
    """Return the sizes of each shape: all combinations, the last sweep running fastest; one empty one of no sweep."""
    return [dict(zip(sweeps, sizes, strict=True)) for sizes in itertools.product(*sweeps.values())]
