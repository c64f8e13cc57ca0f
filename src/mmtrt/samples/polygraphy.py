"""Polygraphy's JSON of outputs (`polygraphy run --save-outputs`), read without Polygraphy, which would load PyTorch.

The format is that of Polygraphy 0.49: `lst` holds a pair per runner, its name and its iterations; an iteration's
arrays are `.npy` bytes in base64.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmtrt.errors import SampleError
from mmtrt.tensors import Array

__all__ = ["RunOutputs", "is_run_outputs", "read_run_outputs", "split_rows"]

_CLASS = "polygraphy_class"

RunOutputs = tuple[str, list[dict[str, Array]]]
"""A runner's name, and its outputs by iteration, with the batch axis."""


def is_run_outputs(path: Path) -> bool:
    """Tell whether a JSON file holds outputs, and not the inputs of `--save-inputs`, which are a list."""
    data = _read(path)
    return isinstance(data, dict) and data.get(_CLASS) == "RunResults"


def read_run_outputs(path: Path) -> RunOutputs:
    """Return the outputs of the one runner in a file; SampleError where it holds several, or can't be read."""
    data = _read(path)
    try:
        runners = [(str(name), iterations) for name, iterations in data["lst"]]
    except (KeyError, TypeError, ValueError) as error:
        raise SampleError(
            f"{path} holds no outputs of Polygraphy", fix="`polygraphy run --save-outputs` writes such a file."
        ) from error
    if len(runners) != 1:
        raise SampleError(
            f"{path} holds the outputs of {len(runners)} runners ({', '.join(name for name, _ in runners)})",
            fix="Save those of one: give `polygraphy run` one runner.",
        )
    (name, iterations) = runners[0]
    try:
        return name, [{str(n): _array(v) for n, v in row["outputs"].items()} for row in iterations]
    except (KeyError, TypeError, ValueError, AttributeError, EOFError) as error:
        raise SampleError(
            f"{path}: an array can't be read: {type(error).__name__}: {error}",
            fix="Save NumPy arrays: what PyTorch's runner gives in another form is not read.",
        ) from error


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SampleError(f"{path} is no readable JSON: {error}", fix="Save it again.") from error


def _array(row: Mapping[str, Any]) -> Array:
    kind = row[_CLASS]
    if kind == "LazyArray":
        return _array(row["values"])
    if kind != "ndarray":
        raise ValueError(f"it is a {kind}")
    # Pickled objects would run code of whoever wrote the file.
    array: Array = np.load(io.BytesIO(base64.b64decode(row["array"])), allow_pickle=False)
    return array


def split_rows(iteration: Mapping[str, Array], what: str) -> list[dict[str, Array]]:
    """Part one iteration's arrays along the batch axis that they share; SampleError where they share none."""
    sizes = {name: array.shape[0] if array.ndim else None for name, array in iteration.items()}
    if len(set(sizes.values())) != 1 or None in sizes.values():
        told = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise SampleError(
            f"{what}: the first axes differ ({told or 'there are no arrays'}), so they have no common batch axis",
            fix="Each array needs the batch as its first axis.",
        )
    count = next(iter(sizes.values())) or 0
    return [{name: array[index] for name, array in iteration.items()} for index in range(count)]
