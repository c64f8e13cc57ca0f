"""What a just-in-time flavour compiled for this GPU, kept on disk: the file of TensorRT-RTX's runtime cache.

It lies in mmtrt's cache folder, or a deployment's own, under the engine's digest, the flavour's version and the GPU.
One that can't be read, or that the flavour refuses, costs time and nothing else.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from mmtrt.artifacts import StageCache, key_of, whole_file
from mmtrt.errors import MmtrtError

__all__ = ["RuntimeCache", "open_cache"]


class RuntimeCache:
    """One file, which begins with what `first` holds; `notes` tells what of it did not work."""

    def __init__(self, file: Path, first: Path | None = None) -> None:
        self.file = file
        self._first = first
        self.notes: list[str] = []
        self._kept: bytes | None = None
        self._turn = threading.Lock()

    def load(self) -> bytes | None:
        """Return what was kept; None where nothing was, or it can't be read."""
        self._kept = self._read(self.file)
        if self._kept is None and self._first is not None:
            # Nobody writes it again while nothing is added.
            self._kept = self._read(self._first)
        return self._kept

    def _read(self, file: Path) -> bytes | None:
        try:
            return file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self.notes.append(f"{file} can't be read: {error}")
            return None

    def save(self, data: bytes) -> None:
        """Keep it, where it is not what is kept already."""
        with self._turn:
            if data == self._kept:
                return
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                with whole_file(self.file) as part:
                    part.write_bytes(data)
                self._kept = data
            except (OSError, MmtrtError) as error:
                self.notes.append(f"{self.file} was not written: {error}")


def open_cache(engine_digest: str, where: str, folder: Path | None = None) -> RuntimeCache | None:
    """Return the file for an engine; `where` names the flavour's version and the GPU. None where nothing is kept.

    `folder` is a deployment's cache. Who may not write there begins with what the deploy compiled, and keeps more in
    mmtrt's own.
    """
    key = key_of({"engine": engine_digest, "where": where})
    inner = Path("runtime", f"{key[:32]}.bin")
    theirs = None if folder is None else folder / inner
    if folder is not None and theirs is not None and _writable(folder, theirs.parent):
        return RuntimeCache(theirs)
    own = _own()
    return None if own is None else RuntimeCache(own / inner, theirs)


def _writable(folder: Path, inner: Path) -> bool:
    return os.access(inner if inner.exists() else folder, os.W_OK | os.X_OK)


def _own() -> Path | None:
    try:
        return StageCache.default().root
    except RuntimeError:  # a service whose user has no home
        return None
