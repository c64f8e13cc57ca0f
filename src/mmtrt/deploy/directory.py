"""The directory of a deployment: versions that appear whole, and the one link that is switched."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmtrt.artifacts import machine_errors
from mmtrt.errors import MachineError, UsageError

__all__ = ["BUNDLE", "DOCUMENT", "ENGINE", "Directory", "Version", "opened", "part_of", "remove", "sync", "sync_tree"]

BUNDLE, ENGINE, DOCUMENT = "bundle", "model.engine", "deployed.json"
_LOCK, _VERSIONS, _CACHE, _CURRENT = ".deploy.lock", "versions", "cache", "current"
_VERSION = re.compile(r"(\d{4,9})-([A-Za-z0-9][A-Za-z0-9._-]{0,63})-(\d{1,9}(?:\.\d{1,9}){0,3})-([0-9a-f]{12})")
_CACHES = ("engines", "timing", "runtime")
_MASK = 0o022
_PART = re.compile(r"\.[0-9a-f]{16}\.part")


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A version's directory, and what its name tells: the bundle's name, version, and how its digest begins."""

    path: Path
    number: int
    name: str
    version: str
    digest: str

    @property
    def bundle(self) -> Path:
        """The bundle's files, as the directory form has them."""
        return self.path / BUNDLE

    @property
    def engine(self) -> Path:
        """What runs."""
        return self.path / ENGINE

    @property
    def document(self) -> Path:
        """What was verified, built, run and measured."""
        return self.path / DOCUMENT


@dataclass(frozen=True, slots=True)
class Directory:
    """A deployment's directory, while nobody else changes it."""

    root: Path

    @property
    def cache(self) -> Path:
        """Engines and timing caches of this machine, by what went in."""
        return self.root / _CACHE

    def versions(self) -> list[Version]:
        """Return the versions that are whole, in the order in which they were deployed."""
        folder = self.root / _VERSIONS
        paths = folder.iterdir() if folder.is_dir() else ()
        names = [path.name for path in paths if path.is_dir() and not path.is_symlink()]
        found = map(self._version, names)
        return sorted((version for version in found if version is not None), key=lambda version: version.number)

    def _version(self, name: str) -> Version | None:
        told = _VERSION.fullmatch(name)
        if told is None:
            return None
        path = self.root / _VERSIONS / name
        return Version(path=path, number=int(told[1]), name=told[2], version=told[3], digest=told[4])

    def named(self, name: str) -> Version | None:
        """Return a version by its directory's name; None where there is none that is whole."""
        return next((version for version in self.versions() if version.path.name == name), None)

    def current(self) -> Version | None:
        """Return the version that runs, None before the first; UsageError where `current` is none of ours."""
        link = self.root / _CURRENT
        if not link.is_symlink() and not link.exists():
            return None
        folder, _, name = str(link.readlink()).partition("/") if link.is_symlink() else ("", "", "")
        version = self._version(name) if folder == _VERSIONS else None
        if version is None:
            raise UsageError(f"{link} is no link that mmtrt made", fix="Remove it, or deploy to another directory.")
        return version

    def next_name(self, name: str, version: str, digest: str) -> str:
        """Return the name of the next version's directory."""
        last = max((one.number for one in self.versions()), default=0)
        return f"{last + 1:04d}-{name}-{version}-{digest[:12]}"

    @contextlib.contextmanager
    def part(self) -> Iterator[Path]:
        """Give an empty folder among the versions; at the end it goes, unless it was renamed by then."""
        with part_of(self.root / _VERSIONS) as part:
            yield part

    def publish(self, part: Path, name: str) -> Version:
        """Make a part whole under its name: all of it is on the disk before the name is."""
        target = part.with_name(name)
        with machine_errors(str(target)):
            sync_tree(part)
            part.rename(target)
            sync(target.parent)
            # The folder of versions may be new itself.
            sync(self.root)
        version = self._version(name)
        if version is None:
            raise RuntimeError(f"{name!r} is no name of a version")
        return version

    def switch(self, version: Version) -> None:
        """Let `current` be a version, by one rename: whoever looks sees the old one or the new one."""
        with machine_errors(str(self.root / _CURRENT)):
            document = self.root / DOCUMENT
            if not document.is_symlink() and not document.exists():
                self._link(f"{_CURRENT}/{DOCUMENT}", document)
            self._link(f"{_VERSIONS}/{version.path.name}", self.root / _CURRENT)

    def _link(self, target: str, link: Path) -> None:
        part = self.root / f".{secrets.token_hex(8)}.part"
        part.symlink_to(target)
        try:
            part.rename(link)
        except BaseException:
            remove(part)
            raise
        sync(self.root)

    def prune(self, keep: int, before: str) -> list[str]:
        """Remove old versions but for `keep` beside the current one; the one called `before` stays in any case."""
        current = self.current()
        others = [version for version in self.versions() if current is not None and version.path != current.path]
        others.sort(key=lambda version: (version.path.name == before, version.number))
        gone = others[: max(len(others) - max(keep, 1), 0)]
        for version in gone:
            # Out of sight first: a version that is half removed must not look like one.
            part = version.path.with_name(f".{secrets.token_hex(8)}.part")
            with contextlib.suppress(OSError):
                version.path.rename(part)
                remove(part)
        return [version.path.name for version in gone]

    def check_inside(self) -> None:
        """Raise UsageError where one of our folders is a link: all that is written and removed lies in the root."""
        for folder in (self.root / _VERSIONS, self.cache, *(self.cache / name for name in _CACHES)):
            if folder.is_symlink():
                raise UsageError(
                    f"{folder} is a link, and a deploy writes to its own directory alone",
                    fix="Put the whole deployment where that leads to, with --to.",
                )

    def sweep(self) -> None:
        """Remove what deploys left that died: only names that ours make, and nobody else is at work."""
        folders = (self.root, self.root / _VERSIONS, self.cache, *(self.cache.iterdir() if self.cache.is_dir() else ()))
        for folder in folders:
            for path in folder.iterdir() if folder.is_dir() and not folder.is_symlink() else ():
                if _PART.fullmatch(path.name):
                    remove(path)


@contextlib.contextmanager
def part_of(folder: Path) -> Iterator[Path]:
    """Give an empty folder in `folder`, under a name that the next deploy sweeps; at the end it goes."""
    with machine_errors(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f".{secrets.token_hex(8)}.part"
        part.mkdir()
        try:
            yield part
        finally:
            remove(part)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder; what may not be removed stays."""
    if path.is_symlink() or path.is_file():
        with contextlib.suppress(OSError):
            path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def opened(root: Path) -> Iterator[Directory]:
    """Give a deployment's directory to this process alone, swept; MachineError where another deploy is at work.

    It is made where it is missing. UsageError where it holds something else.
    """
    # A service may be started without one, and what others could write here, they could run.
    mask = os.umask(_MASK)
    os.umask(mask | _MASK)
    try:
        with _locked(root):
            directory = Directory(root)
            directory.check_inside()
            directory.sweep()
            yield directory
    finally:
        os.umask(mask)


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    with machine_errors(str(root)):
        _make_folder(root)
        fresh = not (root / _LOCK).exists()
        if fresh and any(root.iterdir()):
            raise UsageError(
                f"{root} is no directory of a deployment", fix="Give an empty or a new directory, or an earlier one."
            )
        descriptor = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        if fresh:
            # It tells that the directory is ours, so it must not be the one that a power cut takes.
            sync(root)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MachineError(
                f"another deploy to {root} is at work", fix="Wait for its end, and run this one again."
            ) from None
        yield
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    """Make a folder with those above it, each on the disk before what is in it."""
    if folder.is_dir():
        return
    above = folder.absolute().parent
    _make_folder(above)
    folder.mkdir(exist_ok=True)
    sync(above)


def sync_tree(folder: Path) -> None:
    """Bring a folder's files and folders to the disk, what is within before what holds it."""
    for inner, _, files in os.walk(folder, topdown=False):
        for file in files:
            sync(Path(inner, file))
        sync(Path(inner))


def sync(path: Path) -> None:
    """Bring one file, or the names in one folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
