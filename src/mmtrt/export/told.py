"""What a factory's fourth item tells of raw inputs and of classes, checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmtrt.errors import InputError, ModelError
from mmtrt.preprocess import Preprocessing, parse_preprocessing, read_preprocessing
from mmtrt.tensors import TensorSpec

__all__ = ["told_labels", "told_preprocessing"]


def told_preprocessing(
    reference: str, extra: Mapping[str, Any], inputs: tuple[TensorSpec, ...]
) -> Preprocessing | None:
    """Return the preprocessing that a factory tells, as an object, plain data or the path of its JSON; None without.

    ModelError where it is broken, or makes other inputs than the module takes.
    """
    told = extra.get("preprocessing")
    if told is None:
        return None
    if not isinstance(told, Preprocessing | Mapping | str | Path):
        raise ModelError(
            f"{reference}: preprocessing is a {type(told).__name__}", fix="Give a dict, or the path of a JSON file."
        )
    try:
        if isinstance(told, str | Path):
            preprocessing = read_preprocessing(Path(told))
        elif isinstance(told, Mapping):
            preprocessing = parse_preprocessing(told, reference)
        else:
            preprocessing = told
        preprocessing.check(inputs, reference)
    except InputError as error:
        raise ModelError(error.message, fix=error.fix) from error
    return preprocessing


def told_labels(
    reference: str, extra: Mapping[str, Any], outputs: tuple[str, ...] | None
) -> dict[str, tuple[str, ...]]:
    """Return the names of the classes of each output that a factory tells; ModelError where they are broken."""
    told = extra.get("labels", {})
    fix = "Give {output: [the name of each class]}."
    if not isinstance(told, Mapping):
        raise ModelError(f"{reference}: labels is a {type(told).__name__}", fix=fix)
    for output, names in told.items():
        if outputs is not None and output not in outputs:
            raise ModelError(f"{reference}: labels are given for {output!r}, which is no output", fix=fix)
        if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
            raise ModelError(f"{reference}: the labels of {output!r} are no list of names", fix=fix)
    return {output: tuple(names) for output, names in told.items()}
