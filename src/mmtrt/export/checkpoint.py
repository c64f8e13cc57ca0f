"""A checkpoint put into a module: safetensors, or a state dict that `torch.load` reads as weights only.

Nothing is half-loaded: each key and shape is compared before the first weight is copied.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mmtrt.errors import ModelError

__all__ = ["CHECKPOINT_SUFFIXES", "load_weights"]

_TORCH = (".pt", ".pth", ".bin", ".ckpt")
CHECKPOINT_SUFFIXES = (".safetensors", *_TORCH)

_USUAL_KEYS = ("state_dict", "model_state_dict", "model", "module", "net", "weights", "params")
"""Where training scripts keep the weights beside the optimizer's state, the likeliest first."""

_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.")
"""What DataParallel, torch.compile and trainers put before each key."""

_SHOWN = 8
"""Keys of a kind that an error lists; it counts the rest."""


class _Weights(Mapping[str, Tensor]):
    """Tensors of a safetensors file, each read when it is asked for: the file is never in memory whole."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._keys = dict.fromkeys(file.keys())

    def __getitem__(self, key: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(key)
        return tensor

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def load_weights(module: nn.Module, path: Path) -> list[str]:
    """Put a checkpoint's weights into a module, in place; return what was done on the way, in words.

    ModelError where the file is none of weights, or where its keys are not the module's: each missing, unexpected
    or misshapen one by name, with the names that come near.
    """
    _check_file(path)
    with _opened(path) as (found, notes):
        weights, unwrapped = _unwrapped(found, module.state_dict())
        _check_keys(path, module, weights)
        return [*notes, *unwrapped, *_copied(module, weights)]


# ----------------------------------------------------------------------------------------------------------- files


def _check_file(path: Path) -> None:
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix in CHECKPOINT_SUFFIXES)
        hint = f"Name the file: {', '.join(str(path / name) for name in inside[:3])}." if inside else None
        raise ModelError(
            f"the checkpoint {path} is a folder", fix=hint or f"Give a file: {', '.join(CHECKPOINT_SUFFIXES)}."
        )
    if not path.is_file():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = get_close_matches(path.name, beside, n=1)
        hint = f"Did you mean {path.parent / near[0]}?" if near else "Check the path."
        raise ModelError(f"there is no checkpoint {path}", fix=hint)
    if path.suffix not in CHECKPOINT_SUFFIXES:
        raise ModelError(
            f"the checkpoint {path} has the suffix {path.suffix!r}",
            fix=f"Give a state dict as {', '.join(CHECKPOINT_SUFFIXES)}; an .onnx file goes to `mmtrt build`.",
        )


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Mapping[str, Tensor], list[str]]]:
    """Give the state dict in a file, and a note on where in the file it was."""
    if path.suffix != ".safetensors":
        yield _state_dict(path, _torch_load(path))
        return
    try:
        file = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise _corrupt(path, error) from error
    with file:
        yield _Weights(file), []


def _torch_load(path: Path) -> Any:
    zipped = zipfile.is_zipfile(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Mapped, a weight is read when it is copied; the format of before 2020 can't be.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused or "TorchScript" in str(error):
            raise ModelError(
                f"the checkpoint {path} holds more than weights, and reading it could run any code: "
                f"it holds {refused[1] if refused else 'a TorchScript program'}",
                fix="Where it was trained: torch.save(model.state_dict(), 'weights.pt'), or safetensors' save_file.",
            ) from error
        raise _corrupt(path, error) from error


def _corrupt(path: Path, error: Exception) -> ModelError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # PyTorch's first line is advice to load it unsafely.
    reason = next((line for line in lines if line.startswith("WeightsUnpickler")), lines[0])
    return ModelError(
        f"the checkpoint {path} can't be read: it is cut off, or no {path.suffix} file: {reason}",
        fix="Save it again, or copy it again in binary mode.",
    )


def _state_dict(path: Path, loaded: Any) -> tuple[Mapping[str, Tensor], list[str]]:
    """Return what is a mapping from names to tensors: the whole, or its one usual part."""
    if _holds_tensors(loaded):
        return loaded, []
    parts = {str(key): value for key, value in loaded.items()} if isinstance(loaded, Mapping) else {}
    named = [key for key in _USUAL_KEYS if _holds_tensors(parts.get(key))]
    others = [key for key, value in parts.items() if _holds_tensors(value)]
    if not named and len(others) != 1:
        holds = f"the keys {_listed(parts)}" if parts else f"a {type(loaded).__name__}"
        raise ModelError(
            f"the checkpoint {path} holds no state dict, but {holds}",
            fix="Save the state dict alone: torch.save(model.state_dict(), 'weights.pt').",
        )
    chosen = (named or others)[0]
    beside = _listed(key for key in parts if key != chosen)
    return parts[chosen], [f"the checkpoint's weights are those under {chosen!r}; beside them it holds {beside}"]


def _holds_tensors(value: Any) -> bool:
    if not isinstance(value, Mapping) or not value:
        return False
    return all(isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in value.items())


# ------------------------------------------------------------------------------------------------------------ keys


class _Renamed(Mapping[str, Tensor]):
    """Weights whose keys all lost a prefix."""

    def __init__(self, weights: Mapping[str, Tensor], prefix: str) -> None:
        self._weights = weights
        self._prefix = prefix

    def __getitem__(self, key: str) -> Tensor:
        return self._weights[self._prefix + key]

    def __contains__(self, key: object) -> bool:
        return f"{self._prefix}{key}" in self._weights

    def __iter__(self) -> Iterator[str]:
        return (key.removeprefix(self._prefix) for key in self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def _unwrapped(weights: Mapping[str, Tensor], own: Mapping[str, Any]) -> tuple[Mapping[str, Tensor], list[str]]:
    """Take away prefixes that all keys of the file have and no key of the module has."""
    notes: list[str] = []
    while True:
        prefix = next((p for p in _WRAPPERS if weights and all(key.startswith(p) for key in weights)), None)
        if prefix is None or any(key.startswith(prefix) for key in own):
            return weights, notes
        weights = _Renamed(weights, prefix)
        notes.append(f"each key of the checkpoint begins with {prefix!r}, which was taken away")


def _check_keys(path: Path, module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    own = {key: value for key, value in module.state_dict().items() if isinstance(value, Tensor)}
    missing = [key for key in own if key not in weights and not _implied(key, own, weights)]
    unexpected = [key for key in weights if key not in own]
    wrong = [text for key in own if key in weights and (text := _misfit(key, weights[key], own[key]))]
    if not (missing or unexpected or wrong):
        return
    lines = [
        *_section("missing", missing, [_with_near(key, unexpected) for key in missing[:_SHOWN]]),
        *_section("unexpected", unexpected, [_with_near(key, missing) for key in unexpected[:_SHOWN]]),
        *_section("of the wrong shape", wrong, wrong[:_SHOWN]),
    ]
    raise ModelError(
        f"the checkpoint {path} does not fit {type(module).__name__}; nothing was loaded\n" + "\n".join(lines),
        fix="Build the module in the factory as it was when it was trained, or rename the keys in the file.",
    )


def _implied(key: str, own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> bool:
    """Tell whether a key may be missing: a counter that only training reads, or a tensor that another key names too."""
    if key.rpartition(".")[2] == "num_batches_tracked":
        return True
    place = own[key].untyped_storage().data_ptr()
    return bool(place) and any(
        other in weights and value.shape == own[key].shape and value.untyped_storage().data_ptr() == place
        for other, value in own.items()
        if other != key
    )


def _misfit(key: str, given: Tensor, own: Tensor) -> str | None:
    if given.shape != own.shape:
        return f"{key}: {tuple(given.shape)} in the file, {tuple(own.shape)} in the module"
    if given.is_floating_point() != own.is_floating_point() or given.is_complex() != own.is_complex():
        return f"{key}: {given.dtype} in the file, {own.dtype} in the module"
    return None


def _section(title: str, keys: Sequence[str], shown: Sequence[str]) -> list[str]:
    if not keys:
        return []
    rest = [f"    and {len(keys) - len(shown)} more"] if len(keys) > len(shown) else []
    return [f"  {len(keys)} {title}:", *(f"    {text}" for text in shown), *rest]


def _with_near(key: str, others: Sequence[str]) -> str:
    near = get_close_matches(key, others, n=2)
    return f"{key} (near: {', '.join(near)})" if near else key


def _copied(module: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    converted: set[str] = set()
    with torch.no_grad():
        for key, own in module.state_dict().items():
            if key not in weights:
                continue
            given = weights[key]
            if given.dtype != own.dtype:
                converted.add(f"{given.dtype} to {own.dtype}".replace("torch.", ""))
            own.copy_(given)
    return [f"weights were converted from {', '.join(sorted(converted))}"] if converted else []


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    rest = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(map(repr, listed[:_SHOWN])) + rest or "nothing else"
