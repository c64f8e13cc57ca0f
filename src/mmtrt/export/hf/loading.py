"""A folder or a name on the hub becomes a model in eval mode, with every weight from its checkpoint."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from mmtrt.errors import InputError, ModelError, UsageError

__all__ = ["WRITE_ONE", "load_config", "load_json", "load_model", "model_class", "resolved"]

WRITE_ONE = "Write a function that returns (model.eval(), inputs, dynamic_axes), and name it package.module:function."
"""The mend where `hf:` can't do it: a factory of the user's own."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_OFFLINE = re.compile(r"couldn't connect|offline mode|LocalEntryNotFound|Max retries|Name or service", re.IGNORECASE)
_LISTED = 5


def resolved(name: str) -> str:
    """Return the folder, or the name on the hub; UsageError or InputError where it is neither."""
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(
                f"{folder} holds no config.json",
                fix="Name a folder that save_pretrained wrote, or that holds a clone of a hub's repository.",
            )
        return str(folder)
    if name and folder.exists():
        raise InputError(f"{folder} is a file", fix="Name the folder that it lies in, with its config.json.")
    if name.startswith((".", "~", "/")) or not _HUB_NAME.fullmatch(name):
        raise InputError(f"there is no folder {name or '(nothing)'}", fix="Give hf:DIRECTORY, or hf:OWNER/NAME.")
    return name


def load_config(name: str) -> Any:
    """Read a model's configuration; InputError or ModelError that says what is wrong with it."""
    known = transformers.CONFIG_MAPPING
    raw = load_json(name, "config.json")
    if raw is None:
        raise _unreachable(name)
    kind = raw.get("model_type")
    # Of its parts transformers itself makes models, by classes that would ask whether to run what is named there.
    if ("auto_map" in raw and kind not in known) or any("auto_map" in part for part in _within(raw)):
        raise _own_code(name)
    if kind not in known:
        near = _near(str(kind), list(known)) if kind else None
        raise ModelError(
            f"hf:{name}: transformers {transformers.__version__} knows no model_type {kind!r}",
            fix=f"Did you mean {near!r}?" if near else "Is it a model of a newer transformers, or of another library?",
        )
    with _told(name, "its configuration"):
        return transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)


def load_json(name: str, file: str) -> dict[str, Any] | None:
    """Read one of a model's JSON files; None where it has none, InputError where it can't be read."""
    with _told(name, file):
        path = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
    if path is None:
        return None
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"hf:{name}: {file} is no JSON: {error}", fix="Save or fetch it again.") from error
    if not isinstance(found, dict):
        raise InputError(f"hf:{name}: {file} holds a {type(found).__name__}", fix="It is a JSON object.")
    return found


def model_class(name: str, config: Any) -> Any:
    """Return the class that the configuration names; ModelError where it is no model's class of transformers.

    Its `Auto` classes are none: they choose a class by the configuration, one of the folder's own code too.
    """
    named = list(getattr(config, "architectures", None) or [])
    if not named:
        mapping: Mapping[Any, Any] = transformers.MODEL_MAPPING
        if type(config) in mapping:
            return mapping[type(config)]
        raise ModelError(
            f"hf:{name}: config.json names no architecture",
            fix='Add the class that it was trained as: "architectures": ["CLIPModel"] say.',
        )
    found = getattr(transformers, str(named[0]), None)
    if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
        return found
    if getattr(config, "auto_map", None):
        raise _own_code(name)
    if found is not None:
        raise ModelError(
            f"hf:{name}: config.json names {named[0]!r} as its architecture, which is no model's class",
            fix='Name the class that it was trained as: "architectures": ["CLIPModel"] say.',
        )
    near = _near(str(named[0]), dir(transformers))
    raise ModelError(
        f"hf:{name}: transformers {transformers.__version__} has no class {named[0]!r}",
        fix=f"Did you mean {near!r}?" if near else "Is it a model of another transformers?",
    )


def load_model(name: str, kind: Any) -> torch.nn.Module:
    """Load the weights in FP32 with plain attention, in eval mode; ModelError where one is missing or does not fit.

    A weight that the checkpoint lacks would be drawn at random, and an engine made of it would say nothing.
    """
    with _told(name, "its weights"):
        model, told = kind.from_pretrained(
            name,
            trust_remote_code=False,
            attn_implementation="eager",
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # They are told below, by name.
        )
    missing = sorted(told["missing_keys"])
    if missing:
        raise ModelError(
            f"hf:{name}: the checkpoint lacks {len(missing)} of {kind.__name__}'s weights: {_some(missing)}",
            fix='Name the class that it was trained as in config.json ("architectures"), or fetch it again.',
        )
    other = sorted(str(row[0]) for row in told["mismatched_keys"])
    if other:
        raise ModelError(
            f"hf:{name}: {len(other)} weights have another shape than the configuration says: {_some(other)}",
            fix="config.json and the weights belong to different models.",
        )
    return model.eval()


def _within(data: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the objects that lie within a JSON value, however deep; not the value itself."""
    if isinstance(data, (Mapping, list)):
        for each in data.values() if isinstance(data, Mapping) else data:
            if isinstance(each, Mapping):
                yield each
            yield from _within(each)


def _own_code(name: str) -> ModelError:
    return ModelError(
        f"hf:{name} brings code of its own, which mmtrt does not run",
        fix="Read it, and write a function that returns (model.eval(), inputs); name it package.module:function.",
    )


def _near(name: str, known: list[str]) -> str | None:
    """Return what a name was meant to be: capitals are what is wrong most often."""
    lower = {each.lower(): each for each in known}
    found = get_close_matches(name.lower(), lower, n=1)
    return lower[found[0]] if found else None


def _unreachable(name: str) -> InputError:
    return InputError(
        f"hf:{name} is no folder, and the hub can't be reached or has no such model",
        fix=f"Fetch it where there is a network (`hf download {name}`), and name its folder: hf:FOLDER.",
    )


def _refused(name: str, error: BaseException | None) -> InputError | None:
    """Return what the hub said against a name; None where it was not the hub. Its reason may lie beneath others."""
    while error is not None:
        if isinstance(error, GatedRepoError):
            return InputError(
                f"hf:{name} is gated on the hub: its owner chooses who may read it",
                fix="Ask for access on its page and run `hf auth login`, or name a folder that holds it: hf:FOLDER.",
            )
        if isinstance(error, RepositoryNotFoundError):
            return InputError(
                f"hf:{name}: the hub has no such model, or shows it to its owner only",
                fix="Check the name (hf:OWNER/NAME); for a private one, run `hf auth login` before.",
            )
        error = error.__cause__
    return None


def _some(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")


@contextlib.contextmanager
def _told(name: str, what: str) -> Iterator[None]:
    """Keep progress bars out of the terminal, and turn what transformers raises into errors with a mend."""
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    except (InputError, UsageError, MemoryError):
        raise
    except Exception as error:
        refused = _refused(name, error)
        if refused is not None:
            raise refused from error
        text = " ".join(str(error).split())
        if not Path(name).is_dir() and (_OFFLINE.search(text) or _OFFLINE.search(repr(error.__cause__))):
            raise _unreachable(name) from error
        raise ModelError(
            f"hf:{name}: {what} could not be read: {type(error).__name__}: {text[:400]}",
            fix="Fetch or save it again; a file that was cut short is the usual cause.",
        ) from error
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
