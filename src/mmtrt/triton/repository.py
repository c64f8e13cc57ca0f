"""Models put into a repository: each whole, nothing taken away that mmtrt did not write there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mmtrt
from mmtrt.artifacts import file_digest, json_text, read_json, whole_directory
from mmtrt.errors import UsageError
from mmtrt.results import plain

__all__ = ["MARKER", "SCHEMA", "Model", "check_repository", "write_repository"]

MARKER = "mmtrt.json"
SCHEMA = "mmtrt.triton-model/1"
_CONFIG = "config.pbtxt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One model of a repository, in one version.

    `files` are its files by their path in the model's folder, as bytes or as a file to copy; those of the version lie
    in the folder of its number. `interface` is what all versions of a model share, since they share a configuration.
    """

    name: str
    version: int
    config: str
    interface: Mapping[str, Any]
    files: Mapping[str, bytes | Path] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def paths(self) -> list[str]:
        """All files that are written, but for the marker."""
        return sorted((_CONFIG, *self.files))


def check_repository(repository: Path, names: Sequence[str]) -> None:
    """Raise UsageError where `repository` is no model repository, or a model of these names there is not ours.

    It is no repository where something else than models lies in it: Triton would take each folder for one.
    """
    if repository.is_symlink() or repository.exists():
        if not repository.is_dir():
            raise UsageError(f"{repository} is a file, not a model repository", fix="Name a folder.")
        strangers = sorted(path.name for path in repository.iterdir() if not _is_model(path))
        if strangers:
            raise UsageError(
                f"{repository} is no model repository: it holds {', '.join(map(repr, strangers[:5]))}",
                fix="Name an empty folder, or one that does not exist yet.",
            )
    for name in names:
        _left_over(repository / name)


def write_repository(repository: Path, models: Sequence[Model]) -> list[Path]:
    """Write the models, each whole; return their folders.

    What a model of ours has in other versions stays. Models replace others once all of them are written, in the order
    given: what uses another model comes after it. UsageError as in `check_repository`, and where an earlier version
    has other inputs or outputs; then, and where writing fails, everything is as it was.
    """
    check_repository(repository, [model.name for model in models])
    with ExitStack() as stack:
        if not repository.exists():
            whole = stack.enter_context(whole_directory(repository))
            for model in models:
                (whole / model.name).mkdir()
                _write(whole / model.name, model, repository / model.name)
        else:
            # Left in the other order: the last one entered is put in its place first.
            for model in reversed(models):
                _write(stack.enter_context(whole_directory(repository / model.name)), model, repository / model.name)
    return [repository / model.name for model in models]


def _is_model(path: Path) -> bool:
    return path.name.startswith(".") or (path.is_dir() and (path / _CONFIG).is_file())


def _left_over(folder: Path) -> Mapping[str, Any] | None:
    """Return the marker of a model of ours, None where there is no model; UsageError where it is not as we wrote it."""
    if folder.is_symlink() or not folder.exists():
        if folder.is_symlink():
            raise UsageError(f"{folder} is a link", fix="Remove it, or name another repository.")
        return None
    marker = folder / MARKER
    data = read_json(marker) if marker.is_file() and not marker.is_symlink() else None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or not isinstance(data.get("files"), dict):
        raise UsageError(
            f"{folder} is a model that mmtrt did not write",
            fix="Give the recipe another name, or name another repository.",
        )
    digests: dict[str, Any] = data["files"]
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() and not path.is_symlink():
            continue
        if name != MARKER and name not in digests:
            raise UsageError(
                f"{folder} holds {name}, which mmtrt did not write",
                fix="Move it out, or remove the model's folder.",
            )
        if name != MARKER and (path.is_symlink() or file_digest(path) != digests[name]):
            raise UsageError(
                f"{folder / name} was changed since mmtrt wrote it",
                fix="Say it in the recipe's [triton] section, and remove the model's folder.",
            )
    return data


def _write(target: Path, model: Model, before: Path) -> None:
    left = _left_over(before)
    versions = dict(_kept(left, model, before))
    digests: dict[str, str] = {}
    for name in versions:
        for path in sorted(p for p in (before / name).rglob("*") if p.is_file()):
            relative = path.relative_to(before).as_posix()
            _link(path, _parent(target / relative))
            digests[relative] = file_digest(path)
    for name, content in {_CONFIG: model.config.encode("utf-8"), **model.files}.items():
        place = _parent(target / name)
        if isinstance(content, Path):
            shutil.copyfile(content, place)
        else:
            place.write_bytes(content)
        digests[name] = file_digest(place)
    (target / str(model.version)).mkdir(exist_ok=True)
    versions[str(model.version)] = dict(model.about)
    marker = {
        "schema": SCHEMA,
        "name": model.name,
        "mmtrt": mmtrt.__version__,
        "interface": dict(model.interface),
        "versions": {number: versions[number] for number in sorted(versions, key=int)},
        "files": dict(sorted(digests.items())),
    }
    (target / MARKER).write_text(json_text(marker) + "\n", encoding="utf-8")


def _kept(left: Mapping[str, Any] | None, model: Model, before: Path) -> Iterator[tuple[str, Any]]:
    """Yield the versions that stay, and what is told of them; UsageError where they don't fit the new one."""
    others = {
        number: about
        for number, about in (left or {}).get("versions", {}).items()
        if number.isdecimal() and number != str(model.version) and (before / number).is_dir()
    }
    if others and left is not None and left.get("interface") != plain(dict(model.interface)):
        raise UsageError(
            f"{before} has version {', '.join(others)} with other inputs, outputs or batch; all versions of a model "
            "share one configuration",
            fix="Give the recipe another name, or remove these versions' folders.",
        )
    yield from others.items()


def _parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, which costs no room; copy it where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
