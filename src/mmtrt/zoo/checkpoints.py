"""The checkpoints of the zoo's trained models."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mmtrt.errors import InputError, ModelError

__all__ = ["borrow", "checkpoint_path", "load_checkpoint", "weights_package"]

Model = TypeVar("Model", bound=nn.Module)

_DISTRIBUTION = "mmtrt-zoo"
_PACKAGE = "mmtrt_zoo"


def weights_package() -> Path:
    """Return the folder of the package `mmtrt_zoo`, which holds `checkpoints/` and `cards/`.

    That of the source tree where mmtrt itself runs from one: its weights fit its models. Else the installed one;
    InputError where there is none.
    """
    beside = Path(__file__).parents[3] / "packages" / _DISTRIBUTION / "src" / _PACKAGE
    if beside.is_dir():
        return beside
    if find_spec(_PACKAGE) is None:
        raise InputError(
            f"the weights of the zoo's models are not installed: no package {_PACKAGE}",
            fix="Install them: pip install 'mmtrt[zoo]'",
        )
    # A wheel is installed as files, so what resources give is a path.
    return Path(str(resources.files(_PACKAGE)))


def checkpoint_path(name: str) -> Path:
    """Return where the weights of a model of the zoo are kept; InputError where `mmtrt-zoo` is not installed."""
    return weights_package() / "checkpoints" / f"{name}.safetensors"


def borrow(model: nn.Module, name: str, parts: Sequence[str]) -> None:
    """Put the trained weights of these parts of the zoo's `name` into the parts of `model` that are called so.

    A table that has more rows here, as of a larger vocabulary, keeps its own further ones. ModelError where the
    checkpoint is missing or has no such part.
    """
    trained = _read(name, checkpoint_path(name))
    for part in parts:
        prefix = f"{part}."
        theirs = {k.removeprefix(prefix): v for k, v in trained.items() if k.startswith(prefix)}
        module = model.get_submodule(part)
        own = module.state_dict()
        try:
            module.load_state_dict({k: _longer(v, own.get(k)) for k, v in theirs.items()})
        except RuntimeError as error:
            raise ModelError(f"{part} of {name} does not fit {type(model).__name__}: {error}") from error


def _longer(tensor: Tensor, own: Tensor | None) -> Tensor:
    """A table with the rows of `own` that it lacks."""
    if own is None or tensor.ndim < 2 or tensor.shape[1:] != own.shape[1:] or len(tensor) >= len(own):
        return tensor
    return torch.cat([tensor, own[len(tensor) :]])


def load_checkpoint(model: Model, name: str, path: Path | None = None) -> Model:
    """Put the trained weights of the zoo's `name` into `model`; returns it in eval mode.

    ModelError where the checkpoint is missing or does not fit.
    """
    file = path or checkpoint_path(name)
    try:
        model.load_state_dict(_read(name, file))
    except RuntimeError as error:
        raise ModelError(f"{file} does not fit {name}: {error}", fix=f"Train it anew: {_command(name)}") from error
    return model.eval()


def _read(name: str, file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise ModelError(f"the checkpoint of {name} is missing: {file}", fix=f"Train it: {_command(name)}")
    weights: dict[str, Tensor] = load_file(file)
    return weights


def _command(name: str) -> str:
    return f"python -m mmtrt.zoo.train {name}"
