"""The two forms of a bundle, a directory and a canonical tar, as one stream of bytes with one digest.

Nothing is parsed before the digest over everything is right; then only what is canonical is read: a header that is
not the very one that would be written is refused, so are links, devices, and a byte too many.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mmtrt.artifacts import machine_errors, whole_directory, whole_file
from mmtrt.bundle.manifest import MANIFEST_BYTES, Manifest, check_name
from mmtrt.errors import InputError

__all__ = ["MANIFEST", "OUTER", "SIGNATURE", "SIGNATURE_BYTES", "Member", "Sealed", "members", "sealed", "write_bundle"]

OUTER, MANIFEST, SIGNATURE = "bundle.sha256", "bundle.json", "bundle.sig"
SIGNATURE_BYTES = 1 << 20
_BLOCK, _CHUNK = 512, 1 << 20
_END = bytes(2 * _BLOCK)
_SEAL = re.compile(rb"([0-9a-f]{64})\n")
_FIRST = {MANIFEST: 0, SIGNATURE: 1}
_LIMITS = {MANIFEST: MANIFEST_BYTES, SIGNATURE: SIGNATURE_BYTES}


def unsafe(what: str, why: str) -> InputError:
    """Return the error for a bundle that is altered or unsafe: exit code 3."""
    return InputError(f"the bundle {what} is refused: {why}", fix="Get it again from where it was made.")


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a bundle, as its bytes come."""

    name: str
    size: int
    chunks: Iterator[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """A bundle whose outer digest was right: the digest, and the bytes of manifest and signature, not parsed yet."""

    path: Path
    digest: str
    manifest: bytes
    signature: bytes | None
    size: int


def sealed(path: Path) -> Sealed:
    """Hash a bundle and hold it against its outer digest; InputError where it is missing, altered or unsafe."""
    with _refusals(path):
        return _Reader(path).seal()


def members(path: Path, seal: Sealed) -> Iterator[Member]:
    """Yield the files behind manifest and signature, in their order; each must be read before the next one.

    What changed since `sealed` shows in the digests that the manifest has of each.
    """
    with _refusals(path):
        yield from _Reader(path).members(seal)


def write_bundle(
    out: Path, files: Mapping[str, Path], manifest: Manifest, signature: bytes | None, *, tar: bool
) -> str:
    """Write a bundle, whole or not at all, as one file or as a directory; return its outer digest.

    The same content gives the same bytes, whoever writes it, and when.
    """
    inner: dict[str, bytes | Path] = {MANIFEST: manifest.to_bytes()}
    if signature is not None:
        inner[SIGNATURE] = signature
    inner |= {name: files[name] for name in sorted(files)}
    digest = hashlib.sha256()
    if tar:
        with whole_file(out) as part, part.open("wb") as stream:
            stream.write(bytes(2 * _BLOCK))
            for chunk in _stream(inner):
                digest.update(chunk)
                stream.write(chunk)
            stream.seek(0)
            stream.write(_seal(digest.hexdigest()))
        return digest.hexdigest()
    with whole_directory(out) as folder:
        for name, content in inner.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with machine_errors(name), target.open("wb") as stream:
                for chunk in _chunks(content):
                    stream.write(chunk)
        for chunk in _stream({name: folder / name for name in inner}):
            digest.update(chunk)
        (folder / OUTER).write_bytes(f"{digest.hexdigest()}\n".encode())
    return digest.hexdigest()


# --------------------------------------------------------------------------------------------------- canonical tar


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


def _seal(digest: str) -> bytes:
    content = f"{digest}\n".encode()
    return _header(OUTER, len(content)) + content + _padding(len(content))


def _stream(inner: Mapping[str, bytes | Path]) -> Iterator[bytes]:
    for name, content in inner.items():
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        yield _header(name, size)
        yield from _chunks(content)
        yield _padding(size)
    yield _END


def _chunks(content: bytes | Path) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk


# -------------------------------------------------------------------------------------------------------- reading


class _RefusedError(Exception):
    """Why a bundle is refused."""


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    try:
        yield
    except _RefusedError as error:
        raise unsafe(str(path), str(error)) from None
    except OSError as error:
        raise InputError(f"can't read the bundle {path}: {error.strerror or error}", fix="Check the path.") from error


class _Reader:
    """Reads either form; what the path names may be a link, nothing within may."""

    def __init__(self, path: Path) -> None:
        self._path = path
        kind = path.stat().st_mode
        if not stat.S_ISDIR(kind) and not stat.S_ISREG(kind):
            raise _RefusedError("it is neither a file nor a directory")
        self._tar = stat.S_ISREG(kind)

    def seal(self) -> Sealed:
        kept: dict[str, bytes] = {}
        digest = hashlib.sha256()
        told, size = self._tar_seal(digest.update, kept) if self._tar else self._folder_seal(digest.update, kept)
        if digest.hexdigest() != told:
            raise _RefusedError(f"it was altered: its digest is {digest.hexdigest()[:12]}, and it says {told[:12]}")
        if MANIFEST not in kept:
            raise _RefusedError(f"it has no {MANIFEST}")
        return Sealed(path=self._path, digest=told, manifest=kept[MANIFEST], signature=kept.get(SIGNATURE), size=size)

    def members(self, seal: Sealed) -> Iterator[Member]:
        """Yield the files behind those that `seal` holds."""
        if not self._tar:
            for name, path in self._listed():
                if name not in {OUTER, *_FIRST}:
                    with _open(path) as stream:
                        size = os.fstat(stream.fileno()).st_size
                        yield Member(name, size, _pieces(stream, size))
            return
        with _open(self._path) as stream:
            first = len(_seal(seal.digest))
            for content in (seal.manifest, seal.signature):
                first += 0 if content is None else _BLOCK + len(content) + len(_padding(len(content)))
            stream.seek(first)
            yield from _tar_members(stream)

    # ---- a file

    def _tar_seal(self, update: Callable[[bytes], None], kept: dict[str, bytes]) -> tuple[str, int]:
        with _open(self._path) as stream:
            size = os.fstat(stream.fileno()).st_size
            told = _told(stream.read(2 * _BLOCK))
            # Manifest and signature are kept as bytes on the way; their sizes are held to limits, nothing else is read.
            for name in (MANIFEST, SIGNATURE):
                header = stream.read(_BLOCK)
                update(header)
                length = _length(header, name)
                if length is None:
                    break
                if length > _LIMITS[name]:
                    raise _RefusedError(f"its {name} has {length} bytes, more than {_LIMITS[name]}")
                kept[name] = stream.read(length)
                padding = stream.read(len(_padding(length)))
                update(kept[name])
                update(padding)
            while chunk := stream.read(_CHUNK):
                update(chunk)
        return told, size

    # ---- a directory

    def _folder_seal(self, update: Callable[[bytes], None], kept: dict[str, bytes]) -> tuple[str, int]:
        total = 0
        told = None
        for name, path in self._listed():
            with _open(path) as stream:
                size = os.fstat(stream.fileno()).st_size
                if name == OUTER:
                    told = _outer(stream.read(_BLOCK))
                    continue
                if size > _LIMITS.get(name, size):
                    raise _RefusedError(f"its {name} has {size} bytes, more than {_LIMITS[name]}")
                total += size
                update(_header(name, size))
                for chunk in _pieces(stream, size):
                    update(chunk)
                    if name in _FIRST:
                        kept[name] = kept.get(name, b"") + chunk
                update(_padding(size))
        update(_END)
        if told is None:
            raise _RefusedError(f"it has no {OUTER}")
        return told, total

    def _listed(self) -> list[tuple[str, Path]]:
        """Return names and paths of all files, in the order of the tar."""
        found: list[tuple[str, Path]] = []
        for folder, folders, files in os.walk(self._path, onerror=_raise):
            for inner in folders:
                if not stat.S_ISDIR(os.lstat(Path(folder, inner)).st_mode):
                    raise _RefusedError(f"{inner!r} is a link")
            for file in files:
                path = Path(folder, file)
                found.append((_checked(path.relative_to(self._path).as_posix()), path))
            if len(found) > 10_003:
                raise _RefusedError("it has more than 10,000 files")
        return sorted(found, key=lambda row: (-1 if row[0] == OUTER else _FIRST.get(row[0], 2), row[0]))


def _raise(error: OSError) -> None:
    raise error


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file; what the user named may be a link, and is resolved before."""
    # Opened before it is looked at, so that it can't be exchanged in between; a FIFO must not be waited for.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _RefusedError(f"{path.name} is no plain file")
        yield stream


def _pieces(stream: BinaryIO, size: int) -> Iterator[bytes]:
    while size:
        chunk = stream.read(min(size, _CHUNK))
        if not chunk:
            raise _RefusedError("it ends too early")
        size -= len(chunk)
        yield chunk


def _checked(name: str) -> str:
    try:
        return check_name(name)
    except ValueError as error:
        raise _RefusedError(str(error)) from None


def _outer(content: bytes) -> str:
    found = _SEAL.fullmatch(content)
    if not found:
        raise _RefusedError(f"its {OUTER} is none")
    return found[1].decode()


def _told(start: bytes) -> str:
    """Return the digest that a file says it has, of its first member."""
    told = _outer(start[_BLOCK : _BLOCK + 65]) if len(start) == 2 * _BLOCK else ""
    if not told or start != _seal(told):
        raise _RefusedError("it is no bundle of mmtrt")
    return told


def _length(header: bytes, name: str) -> int | None:
    """Return the size that a header gives a file of that name; None where it is another's."""
    digits = header[124:135]
    if len(header) < _BLOCK or not re.fullmatch(rb"[0-7]{11}", digits):
        return None
    size = int(digits, 8)
    return size if header == _header(name, size) else None


def _tar_members(stream: BinaryIO) -> Iterator[Member]:
    before = ""
    while True:
        header = stream.read(_BLOCK)
        if header == bytes(_BLOCK):
            if stream.read(_CHUNK) != bytes(_BLOCK):
                raise _RefusedError("something stands behind its end")
            return
        name = _checked(header[:100].rstrip(b"\0").decode("ascii", "replace"))
        size = _length(header, name)
        if size is None:
            raise _RefusedError(f"{name} is not written as mmtrt writes it")
        if name <= before or name in {OUTER, *_FIRST}:
            raise _RefusedError(f"{name} stands in the wrong place")
        before = name
        pieces = _pieces(stream, size)
        yield Member(name, size, pieces)
        for _ in pieces:
            raise AssertionError("each member is read before the next")
        if stream.read(len(_padding(size))) != _padding(size):
            raise _RefusedError(f"something stands behind {name}")
