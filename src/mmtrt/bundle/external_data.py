"""What a bundle's ONNX may make TensorRT's parser open or load: the files of its weights, and known operators alone."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from mmtrt.bundle.manifest import BundledOnnx
from mmtrt.bundle.operators import OPERATORS
from mmtrt.bundle.wire import Place, named
from mmtrt.errors import InputError

__all__ = ["check_external_data", "check_operators", "data_locations"]

_MEND = "Make the bundle again; a model names nothing but its own weights, beside it."
_DOMAINS = {"", "ai.onnx"}


def data_locations(model: BundledOnnx) -> list[str]:
    """Return the files of a model's weights as its ONNX names them, from its own folder."""
    return [os.path.relpath(name, PurePosixPath(model.path).parent) for name in model.data]


def check_external_data(onnx: Path, allowed: Collection[str]) -> None:
    """Raise InputError where an ONNX file names a file of weights that is not among `allowed`, or that is not whole.

    `allowed` has them as the model names them, from its own folder (`data_locations`). A path out of that folder, or a
    link, is refused whatever is allowed.
    """
    for place in sorted(named(onnx).places, key=lambda place: place.location):
        told = place.location
        if told not in allowed:
            raise InputError(f"{onnx} reads {told!r}, which is not among its weights", fix=_MEND)
        if PurePosixPath(told).is_absolute() or {"..", ".", ""} & set(told.split("/")) or "\0" in told:
            raise InputError(f"{onnx} reads {told!r}, which leads out of its folder", fix=_MEND)
        _check_place(onnx, place)


def check_operators(onnx: Path, plugins: Collection[str]) -> None:
    """Raise InputError where a model has an operator that is neither ONNX's nor its own, nor among `plugins`.

    TensorRT looks such a one up among its plugins by its name; other runtimes let one name an engine's file to load.
    """
    found = named(onnx)
    for domain, name in sorted(found.operators - found.functions):
        if name not in plugins and not (domain in _DOMAINS and name in OPERATORS):
            told = f"{domain}:{name}" if domain else name
            raise InputError(
                f"{onnx} has the operator {told!r}, which is neither ONNX's nor a plugin that is allowed",
                fix="A plugin is named under plugins in the recipe's [bundle] and in the target's file.",
            )


def _check_place(onnx: Path, place: Place) -> None:
    folder = onnx.parent
    for part in place.location.split("/"):
        folder /= part
        try:
            state = folder.lstat()
        except OSError as error:
            raise InputError(f"{onnx} reads {place.location!r}: {error.strerror}", fix=_MEND) from error
        if stat.S_ISLNK(state.st_mode):
            raise InputError(f"{onnx} reads {place.location!r}, which is a link", fix=_MEND)
    if not stat.S_ISREG(state.st_mode):
        raise InputError(f"{onnx} reads {place.location!r}, which is no plain file", fix=_MEND)
    if place.offset + (place.length or 0) > state.st_size:
        raise InputError(f"{onnx} reads beyond the end of {place.location!r}", fix=_MEND)
