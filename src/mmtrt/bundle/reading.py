"""Reading either form of a bundle, a directory or a canonical tar, as one stream of bytes with one digest.

Nothing is parsed before the digest over everything is right; then only what is canonical is read: a header that is
not the very one that would be written is refused, so are links, devices, an empty folder, and a byte too many.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mmtrt.bundle.canonical import (
    BLOCK,
    BUNDLE_BYTES,
    CHUNK,
    END,
    FILES,
    MANIFEST,
    OUTER,
    RESERVED,
    SIGNATURE,
    SIGNATURE_BYTES,
    Refused,
    check_name,
    header,
    padding,
    seal_of,
    unsafe,
)
from mmtrt.bundle.folders import Found, found
from mmtrt.bundle.manifest import MANIFEST_BYTES
from mmtrt.errors import InputError

__all__ = ["Member", "Sealed", "members", "resolved", "sealed"]

_SEAL = re.compile(rb"([0-9a-f]{64})\n")
_FIRST = {MANIFEST: 0, SIGNATURE: 1}
_LIMITS = {MANIFEST: MANIFEST_BYTES, SIGNATURE: SIGNATURE_BYTES}


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


def resolved(path: Path) -> Path:
    """Follow the links by which a bundle is named; InputError where they lead nowhere. None within is followed."""
    try:
        return path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name with a NUL
        told = error.strerror if isinstance(error, OSError) else None
        raise InputError(f"can't read the bundle {path}: {told or error}", fix="Check the path.") from error


def sealed(path: Path) -> Sealed:
    """Hash a bundle and hold it against its outer digest; InputError where it is missing, altered or unsafe."""
    with _refusals(path):
        return _Reader(path).seal()


def members(path: Path, seal: Sealed) -> Iterator[Member]:
    """Yield the files behind manifest and signature, in their order; each must be read before the next one.

    What changed since `sealed` shows in the digests that the manifest has of each.
    """
    with _refusals(path):
        for member in _Reader(path).members(seal):
            yield Member(member.name, member.size, _named(path, member.chunks))


def _named(path: Path, chunks: Iterator[bytes]) -> Iterator[bytes]:
    # They are read by whoever takes the member, outside of the generator that gave it.
    with _refusals(path):
        yield from chunks


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    try:
        yield
    except Refused as error:
        raise unsafe(str(path), str(error)) from None
    except OSError as error:
        raise InputError(f"can't read the bundle {path}: {error.strerror or error}", fix="Check the path.") from error


class _Reader:
    """Reads either form; what the path names may be a link, nothing within may."""

    def __init__(self, path: Path) -> None:
        self._path = path
        kind = path.stat().st_mode
        if not stat.S_ISDIR(kind) and not stat.S_ISREG(kind):
            raise Refused("it is neither a file nor a directory")
        self._tar = stat.S_ISREG(kind)

    def seal(self) -> Sealed:
        kept: dict[str, bytes] = {}
        digest = hashlib.sha256()
        told, size = self._tar_seal(digest.update, kept) if self._tar else self._folder_seal(digest.update, kept)
        if digest.hexdigest() != told:
            raise Refused(f"it was altered: its digest is {digest.hexdigest()[:12]}, and it says {told[:12]}")
        if MANIFEST not in kept:
            raise Refused(f"it has no {MANIFEST}")
        return Sealed(path=self._path, digest=told, manifest=kept[MANIFEST], signature=kept.get(SIGNATURE), size=size)

    def members(self, seal: Sealed) -> Iterator[Member]:
        """Yield the files behind those that `seal` holds."""
        if not self._tar:
            for row in _files(self._path):
                if row.name not in RESERVED:
                    yield Member(row.name, row.size, _pieces(row.stream, row.size))
            return
        with _open(self._path) as stream:
            first = len(seal_of(seal.digest))
            for content in (seal.manifest, seal.signature):
                first += 0 if content is None else BLOCK + len(content) + len(padding(len(content)))
            stream.seek(first)
            yield from _tar_members(stream)

    # ---- a file

    def _tar_seal(self, update: Callable[[bytes], None], kept: dict[str, bytes]) -> tuple[str, int]:
        with _open(self._path) as stream:
            size = os.fstat(stream.fileno()).st_size
            _check_size(size)
            told = _told(stream.read(2 * BLOCK))
            # Manifest and signature are kept as bytes on the way; their sizes are held to limits, nothing else is read.
            for name in (MANIFEST, SIGNATURE):
                head = stream.read(BLOCK)
                update(head)
                length = _length(head, name)
                if length is None:
                    break
                _check_limit(name, length)
                kept[name] = b"".join(_pieces(stream, length))
                update(kept[name])
                for chunk in _pieces(stream, len(padding(length))):
                    update(chunk)
            # No further than it was long: one that grows all the time would never end.
            for chunk in _pieces(stream, size - stream.tell()):
                update(chunk)
        return told, size

    # ---- a directory

    def _folder_seal(self, update: Callable[[bytes], None], kept: dict[str, bytes]) -> tuple[str, int]:
        total = 0
        told = None
        for row in _files(self._path):
            if row.name == OUTER:
                told = _outer(row.stream.read(BLOCK))
                continue
            _check_limit(row.name, row.size)
            _check_size(total := total + row.size)
            update(_written_header(row.name, row.size))
            parts = []
            for chunk in _pieces(row.stream, row.size):
                update(chunk)
                if row.name in _FIRST:
                    parts.append(chunk)
            if row.name in _FIRST:
                kept[row.name] = b"".join(parts)
            update(padding(row.size))
        update(END)
        if told is None:
            raise Refused(f"it has no {OUTER}")
        return told, total


def _files(path: Path) -> Iterator[Found]:
    """Yield all files of a directory in the order of the tar, each open only until the next one is asked for."""
    return found(path, lambda name: (-1 if name == OUTER else _FIRST.get(name, 2), name))


def _check_size(size: int) -> None:
    if size > BUNDLE_BYTES:
        raise Refused(f"it has {size} bytes, more than {BUNDLE_BYTES}")


def _check_limit(name: str, size: int) -> None:
    if size > _LIMITS.get(name, size):
        raise Refused(f"its {name} has {size} bytes, more than {_LIMITS[name]}")


def _written_header(name: str, size: int) -> bytes:
    try:
        return header(name, size)
    except ValueError as error:
        raise Refused(str(error)) from None


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file; what the user named may be a link, and is resolved before."""
    # Opened before it is looked at, so that it can't be exchanged in between; a FIFO must not be waited for.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Refused(f"{path.name} is no plain file")
        yield stream


def _pieces(stream: BinaryIO, size: int) -> Iterator[bytes]:
    while size > 0:
        chunk = stream.read(min(size, CHUNK))
        if not chunk:
            raise Refused("it ends too early")
        size -= len(chunk)
        yield chunk


def _outer(content: bytes) -> str:
    outer = _SEAL.fullmatch(content)
    if not outer:
        raise Refused(f"its {OUTER} is none")
    return outer[1].decode()


def _told(start: bytes) -> str:
    """Return the digest that a file says it has, of its first member."""
    told = _outer(start[BLOCK : BLOCK + 65]) if len(start) == 2 * BLOCK else ""
    if not told or start != seal_of(told):
        raise Refused("it is no bundle of mmtrt")
    return told


def _length(head: bytes, name: str) -> int | None:
    """Return the size that a header gives a file of that name; None where it is another's."""
    digits = head[124:135]
    if len(head) < BLOCK or not re.fullmatch(rb"[0-7]{11}", digits):
        return None
    size = int(digits, 8)
    return size if head == header(name, size) else None


def _tar_members(stream: BinaryIO) -> Iterator[Member]:
    before = ""
    for _ in range(FILES + 1):
        head = stream.read(BLOCK)
        if len(head) < BLOCK:
            raise Refused("it ends too early")
        if head == bytes(BLOCK):
            if stream.read(CHUNK) != bytes(BLOCK):
                raise Refused("something stands behind its end")
            return
        try:
            name = check_name(head[:100].rstrip(b"\0").decode("ascii", "replace"))
        except ValueError as error:
            raise Refused(str(error)) from None
        size = _length(head, name)
        if size is None:
            raise Refused(f"{name} is not written as mmtrt writes it")
        if name <= before or name in RESERVED:
            raise Refused(f"{name} stands in the wrong place")
        before = name
        pieces = _pieces(stream, size)
        yield Member(name, size, pieces)
        for _ in pieces:
            raise AssertionError("each member is read before the next")
        if stream.read(len(padding(size))) != padding(size):
            raise Refused(f"something stands behind {name}")
    raise Refused(f"it has more than {FILES} files")
