"""What a path names: a deployment, a bundle, an engine or an ONNX; each is verified before anything of it is loaded."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mmtrt.artifacts import machine_errors
from mmtrt.errors import InputError, UsageError
from mmtrt.runtimes.cuda import Cuda

if TYPE_CHECKING:
    from mmtrt.bundle.opening import Trust
    from mmtrt.preprocess import Preprocessing

__all__ = ["CURRENT", "Folder", "Found", "Runs", "find"]

Runs = Literal["engine", "onnx"]
CURRENT = "current"
_PREFIX = "mmtrt-session-"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FIRST, _MANIFEST = "bundle.sha256", "bundle.json"


class Folder:
    """A private folder for what is unpacked, which goes with `close`, with its owner, or when the process ends.

    What a process left that was killed goes with the next one's: whoever lives holds a lock on his.
    """

    def __init__(self) -> None:
        with machine_errors("a temporary folder"):
            _sweep(Path(tempfile.gettempdir()))
            self.path, lock = _locked_folder()
        self.close = weakref.finalize(self, _remove, self.path, lock, os.getpid())


def _locked_folder() -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        # Another session may find it before it has a lock, and remove it.
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(path, _FOLDER)
            # A file system without locks refuses; there nobody sweeps.
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                return path, lock
            os.close(lock)


def _sweep(above: Path) -> None:
    """Remove this user's folders of sessions that died; what can't be removed stays."""
    for path in above.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            lock = os.open(path, _FOLDER)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(lock).st_uid == os.geteuid():
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)


def _remove(path: Path, lock: int, process: int) -> None:
    # A forked child ends too, and its parent still runs from there.
    if os.getpid() == process:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The file that runs, and what its bundle tells besides.

    `folder` is to be closed once nothing runs any more; `cuda` is what `device` returns, where it is open already;
    `cache` is a deployment's own, which holds what the deploy compiled.
    """

    file: Path
    device: Callable[[], Cuda]
    cuda: Cuda | None = None
    preprocessing: Preprocessing | None = None
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    folder: Folder | None = None
    cache: Path | None = None

    def give_up(self) -> None:
        """Give everything back where nothing came to run."""
        if self.cuda is not None:
            self.cuda.close()
        if self.folder is not None:
            self.folder.close()


def find(path: Path, *, runs: Runs, target: str | None, trust: Trust | None, device: Callable[[], Cuda]) -> Found:
    """Return what runs where `path` names a bundle, a deployment, an engine, its manifest or an ONNX.

    InputError where it is missing, altered or unsafe, MachineError where no engine of a bundle fits this machine.
    """
    deployed = (path / CURRENT).is_dir()
    if deployed or _is_bundle(path):
        # What runs an engine must do without pydantic.
        from mmtrt.session.bundles import find_bundle, find_deployment

        found = find_deployment if deployed else find_bundle
        return found(path, runs=runs, target=target, trust=trust, device=device)
    if path.is_dir():
        raise InputError(
            f"{path} holds neither a bundle nor a deployed version", fix=f"`mmtrt deploy BUNDLE --to {path}` makes one."
        )
    if target is not None or trust is not None:
        raise UsageError(f"{path} is no bundle and no deployment, which have targets and signers")
    # A manifest is named for its engine: model.int8.engine.json.
    file = path.with_suffix("") if path.suffix == ".json" else path
    if not file.is_file():
        raise InputError(f"there is no file {file}", fix="`mmtrt build` makes an engine, `mmtrt export` an ONNX.")
    return Found(file=file, device=device)


def _is_bundle(path: Path) -> bool:
    if path.is_dir():
        return (path / _MANIFEST).is_file() or (path / _FIRST).is_file()
    try:
        with path.open("rb") as stream:
            return path.suffix == ".mmtrt" or stream.read(len(_FIRST) + 1) == f"{_FIRST}\0".encode()
    except OSError:
        return False
