"""The files of a bundle's directory, found and opened without following a link anywhere in it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mmtrt.bundle.canonical import FILES, RESERVED, Refused, check_name

__all__ = ["Found", "found"]

# Opened before it is looked at, so that it can't be exchanged in between; a FIFO must not be waited for.
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True)
class Found:
    """A plain file of a directory: its name from there, its size in bytes, and its bytes."""

    name: str
    size: int
    stream: BinaryIO


def found(path: Path, order: Callable[[str], Any]) -> Iterator[Found]:
    """Yield all files below `path`, sorted; each stays open until the next is asked for.

    Refused where there is anything else than plain files, in folders that aren't empty, under names that a bundle may
    have; OSError where it can't be read.
    """
    with _inside(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)) as root:
        names: list[str] = []
        _list(root, "", names)
        for name in sorted(names, key=order):
            with _opened(root, name) as stream:
                yield Found(name, os.fstat(stream.fileno()).st_size, stream)


def _list(folder: int, above: str, names: list[str]) -> None:
    empty = True
    with os.scandir(folder) as entries:
        for entry in entries:
            empty = False
            # Four levels is the deepest that a name has, so this ends, however deep the folders are.
            name = _checked(f"{above}{entry.name}")
            if entry.is_dir(follow_symlinks=False):
                with _inside(_open(entry.name, folder, os.O_DIRECTORY)) as inner:
                    _list(inner, f"{name}/", names)
                continue
            if not entry.is_file(follow_symlinks=False):
                raise Refused(f"{name} is a link, or no plain file")
            names.append(name)
            if len(names) > FILES + len(RESERVED):
                raise Refused(f"it has more than {FILES} files")
    if empty:
        raise Refused(f"its folder {above or '.'} is empty")


@contextmanager
def _opened(root: int, name: str) -> Iterator[BinaryIO]:
    """Open a file folder by folder, so that none on the way can be a link by then."""
    *above, last = name.split("/")
    folder = os.dup(root)
    try:
        for part in above:
            inner = _open(part, folder, os.O_DIRECTORY)
            os.close(folder)
            folder = inner
        descriptor = _open(last, folder)
    finally:
        os.close(folder)
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Refused(f"{name} is no plain file")
        yield stream


def _open(name: str, folder: int, more: int = 0) -> int:
    return os.open(name, _FLAGS | more, dir_fd=folder)


@contextmanager
def _inside(folder: int) -> Iterator[int]:
    try:
        yield folder
    finally:
        os.close(folder)


def _checked(name: str) -> str:
    try:
        return check_name(name)
    except ValueError as error:
        raise Refused(str(error)) from None
