"""Where a bundle goes: a file or a directory, and never over something else."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from mmtrt.bundle.archive import MANIFEST, OUTER, SIGNATURE
from mmtrt.errors import MachineError, UsageError

__all__ = ["Place", "check_place", "is_bundle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A bundle's path, and its form: one file (a canonical tar), or a directory."""

    path: Path
    tar: bool

    def size(self) -> int:
        """Return the bytes of what stands there."""
        files = [self.path] if self.tar else [path for path in self.path.rglob("*") if path.is_file()]
        return sum(path.stat().st_size for path in files)


def check_place(out: str) -> Place:
    """Return where a bundle goes: a directory where one is there or the path ends in a slash, else a file.

    UsageError where something stands there that is no bundle, MachineError where nothing can be written.
    """
    path = Path(out)
    if not out or not path.name:
        raise UsageError(f"{out!r} names no file", fix="Give -o NAME.mmtrt, or -o NAME.mmtrt/ for a directory.")
    folder = path.is_dir() or out.endswith(os.sep)
    if path.is_dir() and any(path.iterdir()) and (not is_bundle(path) or _strangers(path)):
        raise UsageError(
            f"{path} is a directory that is no bundle, or holds other files too",
            fix=f"Give a path in it: {path}/NAME.mmtrt.",
        )
    if path.exists() and not path.is_dir() and (folder or not is_bundle(path)):
        raise UsageError(f"{path} is no bundle, and is not written over", fix="Give another path, or remove it.")
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise MachineError(f"can't write {path}: {above} is no folder that can be written", fix="Give another path.")
    return Place(path=path, tar=not folder)


def is_bundle(path: Path) -> bool:
    """Tell whether something looks like a bundle, by its first bytes or files; nothing of it is verified yet."""
    if path.is_dir():
        return (path / OUTER).is_file() and (path / MANIFEST).is_file()
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(len(OUTER) + 1) == OUTER.encode() + b"\0"


def _strangers(folder: Path) -> list[str]:
    """Return the files that a bundle's manifest does not name: somebody put them there, and would miss them."""
    try:
        named = json.loads((folder / MANIFEST).read_bytes())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        named = ()
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return sorted(set(found) - {OUTER, MANIFEST, SIGNATURE, *named})
