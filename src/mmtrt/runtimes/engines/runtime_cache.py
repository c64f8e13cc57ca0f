"""What a just-in-time flavour compiled for this GPU, kept on disk: the file of TensorRT-RTX's runtime cache.

It lies in mmtrt's cache folder under the engine's digest, the flavour's version and the GPU. One that can't be read,
or that the flavour refuses, costs time and nothing else.
"""

from __future__ import annotations

import threading
from pathlib import Path

from mmtrt.artifacts import StageCache, key_of, whole_file
from mmtrt.errors import MmtrtError

__all__ = ["RuntimeCache", "open_cache"]


class RuntimeCache:
    """One file; `notes` tells what of it did not work."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.notes: list[str] = []
        self._kept: bytes | None = None
        self._turn = threading.Lock()

    def load(self) -> bytes | None:
        """Return what was kept; None where nothing was, or it can't be read."""
        try:
            self._kept = self.file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self.notes.append(f"{self.file} can't be read: {error}")
        return self._kept

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


def open_cache(engine_digest: str, where: str) -> RuntimeCache | None:
    """Return the file for an engine; `where` names the flavour's version and the GPU. None where nothing is kept."""
    folder = StageCache.default().root
    if folder is None:
        return None
    key = key_of({"engine": engine_digest, "where": where})
    return RuntimeCache(folder / "runtime" / f"{key[:32]}.bin")
