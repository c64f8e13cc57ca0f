"""Files that appear whole, their digests, and the cache of stages keyed by what went in."""

from __future__ import annotations

import atexit
import contextlib
import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mmtrt
from mmtrt.errors import InputError, MachineError

__all__ = [
    "StageCache",
    "code_digest",
    "directory_digest",
    "file_digest",
    "finite_number",
    "json_text",
    "key_of",
    "machine_errors",
    "mmtrt_digest",
    "place",
    "read_json",
    "whole_directory",
    "whole_file",
    "write_json",
]

_CHUNK = 1 << 20


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex; InputError where it can't be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror}", fix="Check the path.") from error
    return digest.hexdigest()


def directory_digest(folder: Path, pattern: str = "*") -> str:
    """SHA-256 over the names and the bytes of a folder's files that match, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob(pattern) if p.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}:{file_digest(path)};".encode(errors="surrogateescape"))
    return digest.hexdigest()


def code_digest(file: Path) -> str:
    """Digest of the Python files in a source file's folder: what a function of it may depend on."""
    digest = hashlib.sha256()
    for path in sorted(file.parent.glob("*.py")):
        digest.update(f"{path.name}:{file_digest(path)};".encode())
    return digest.hexdigest()


@cache
def mmtrt_digest() -> str:
    """Digest of mmtrt's own code: a stage that an older mmtrt ran is not taken for a newer one's."""
    return directory_digest(Path(mmtrt.__file__).parent, "*.py")


_HALVES = re.compile("[\ud800-\udfff]")


def json_text(data: Any) -> str:
    """JSON as mmtrt writes it: keys in the order given, UTF-8, two spaces; NaN is refused."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    # A file's name may hold bytes that are no UTF-8, which Python has as halves of surrogate pairs.
    return _HALVES.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def key_of(parts: Mapping[str, Any]) -> str:
    """Digest of plain JSON data, the same whatever the order of its keys."""
    text = json.dumps(parts, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


_ELSEWHERE = "Choose another place for it."
_OTHER_CACHE = "Set MMTRT_CACHE_DIR to a folder that can be written, or pass --no-cache."


@contextlib.contextmanager
def machine_errors(what: str, mend: str = _ELSEWHERE) -> Iterator[None]:
    """Turn a full disk, a read-only folder and the like into a MachineError that names `what`."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise MachineError(
                f"the disk is full: {what} was not written", fix="Free some space and run it again."
            ) from error
        if error.errno in {
            errno.EACCES,
            errno.EPERM,
            errno.EROFS,
            errno.EEXIST,
            errno.ENOTDIR,
            errno.EISDIR,
            errno.ENOTEMPTY,
        }:
            raise MachineError(f"can't write {what}: {error.strerror}", fix=mend) from error
        raise


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; at the end it is synced and renamed, on an error removed.

    A kill never leaves half a file under the name asked for. MachineError on a full disk.
    """
    with machine_errors(str(path)):
        part = _part_of(path)
        part.touch()
        try:
            yield part
            _sync(part)
            part.replace(path)
            _sync(path.parent)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """Give an empty folder beside `path`; at the end it takes the place of `path`, on an error it goes."""
    with _part_folder(path) as part:
        yield part
        _swap(part, path)
        _sync(path.parent)


@contextlib.contextmanager
def _part_folder(path: Path, mend: str = _ELSEWHERE) -> Iterator[Path]:
    """Give a folder beside `path`; at the end it goes, unless it was renamed by then."""
    with machine_errors(str(path), mend):
        part = _part_of(path)
        part.mkdir()
        try:
            yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)


_PART = re.compile(r"\..+\.(\d{1,9})\.[0-9a-f]{8}\.part")


def _part_of(path: Path) -> Path:
    """Return a fresh name beside `path` that tells which process writes to it; sweep what dead ones left there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.iterdir():
        match = _PART.fullmatch(left.name)
        if match and not _alive(int(match[1])):
            _remove(left)
    return path.parent / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part"


def _remove(path: Path) -> None:
    """Remove what an earlier process left; what may not be removed, another user's say, stays."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        path.unlink()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _swap(new: Path, path: Path) -> None:
    """Rename `new` to `path`; what stood there goes away only once the new one stands."""
    _sync_folder(new)
    if not path.is_dir() or path.is_symlink():
        new.replace(path)
        return
    old = _part_of(path)
    path.replace(old)
    try:
        new.replace(path)
    except BaseException:
        old.replace(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    for inner in (*folder.rglob("*"), folder):
        if inner.is_file() or inner.is_dir():
            _sync(inner)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, data: Any) -> None:
    """Write JSON, whole or not at all."""
    with whole_file(path) as part:
        part.write_text(json_text(data) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON; InputError where the file is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror}", fix="Check the path.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON: {error}", fix="Make it again.") from error


def finite_number(told: Any) -> float:
    """Return a number that JSON holds; ValueError where it is none, NaN or infinite, which Python reads there too."""
    if not math.isfinite(number := float(told)):
        raise ValueError(f"{told!r} is no number")
    return number


def place(source: Path, target: Path) -> Path:
    """Copy a file to `target`, whole or not at all; the same bytes are left as they are."""
    same_size = target.is_file() and target.stat().st_size == source.stat().st_size
    if same_size and (target.samefile(source) or file_digest(target) == file_digest(source)):
        return target
    with whole_file(target) as part:
        shutil.copyfile(source, part)
    return target


@dataclass(frozen=True, slots=True)
class StageCache:
    """Results of stages under `root`, each in a folder named by its key; `None` keeps nothing.

    A stage's folder appears by one rename when the stage is done, so a killed run leaves nothing that
    looks finished, and goes on at the stage where it stopped.
    """

    root: Path | None

    @classmethod
    def default(cls) -> StageCache:
        """`$MMTRT_CACHE_DIR`, else `~/.cache/mmtrt`."""
        root = os.environ.get("MMTRT_CACHE_DIR")
        return cls(Path(root) if root else Path.home() / ".cache" / "mmtrt")

    def run(self, stage: str, parts: Mapping[str, Any], work: Callable[[Path], None]) -> tuple[Path, bool]:
        """Return the folder that holds the stage's results, and whether it was there already.

        `parts` is all that the result depends on; `work` writes the results into an empty folder.
        """
        key = key_of({"stage": stage, "mmtrt": mmtrt_digest(), **parts})
        if self.root is None:
            with machine_errors("a temporary folder"):
                folder = Path(tempfile.mkdtemp(prefix=f"mmtrt-{stage}-"))
                atexit.register(shutil.rmtree, folder, ignore_errors=True)
                work(folder)
            return folder, False
        folder = self.root / stage / key[:32]
        if folder.is_dir():
            return folder, True
        with _part_folder(folder, _OTHER_CACHE) as part:
            work(part)
            _sync_folder(part)
            try:
                part.replace(folder)
            except OSError:
                # Where another process finished the same stage meanwhile, its result is as good, and may be in use.
                if not folder.is_dir():
                    raise
            _sync(folder.parent)
        return folder, False
