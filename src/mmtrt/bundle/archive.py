"""Writing a bundle, as a directory or as one canonical tar: the same content is the same bytes."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from mmtrt.artifacts import machine_errors, whole_directory, whole_file
from mmtrt.bundle.canonical import (
    CHUNK,
    END,
    FILE_BYTES,
    MANIFEST,
    OUTER,
    SIGNATURE,
    SIGNATURE_BYTES,
    header,
    padding,
    seal_of,
    unsafe,
)
from mmtrt.bundle.manifest import Manifest
from mmtrt.bundle.reading import Member, Sealed, members, sealed
from mmtrt.errors import InputError

__all__ = [
    "MANIFEST",
    "OUTER",
    "SIGNATURE",
    "SIGNATURE_BYTES",
    "Member",
    "Sealed",
    "members",
    "new_file",
    "sealed",
    "unsafe",
    "write_bundle",
]


def write_bundle(
    out: Path, files: Mapping[str, Path], manifest: Manifest, signature: bytes | None, *, tar: bool
) -> str:
    """Write a bundle, whole or not at all, as one file or as a directory; return its outer digest.

    The same content gives the same bytes, whoever writes it, and when. InputError where a file is larger than a bundle
    can hold, or is not the one that the manifest tells of.
    """
    inner: dict[str, bytes | Path] = {MANIFEST: manifest.to_bytes()}
    if signature is not None:
        inner[SIGNATURE] = signature
    inner |= {name: files[name] for name in sorted(manifest.files)}
    sizes = {name: _size(name, content, manifest) for name, content in inner.items()}
    digest = hashlib.sha256()
    if tar:
        with whole_file(out) as part, part.open("wb") as stream:
            stream.write(seal_of(digest.hexdigest()))
            for name, content in inner.items():
                framed = chain([header(name, sizes[name])], _content(name, content, manifest), [padding(sizes[name])])
                for chunk in framed:
                    digest.update(chunk)
                    stream.write(chunk)
            digest.update(END)
            stream.write(END)
            # Known only now; as long as the one that stands there.
            stream.seek(0)
            stream.write(seal_of(digest.hexdigest()))
        return digest.hexdigest()
    with whole_directory(out) as folder:
        for name, content in inner.items():
            digest.update(header(name, sizes[name]))
            with machine_errors(name), new_file(folder, name) as stream:
                for chunk in _content(name, content, manifest):
                    digest.update(chunk)
                    stream.write(chunk)
            digest.update(padding(sizes[name]))
        digest.update(END)
        with new_file(folder, OUTER) as stream:
            stream.write(f"{digest.hexdigest()}\n".encode())
    return digest.hexdigest()


def new_file(folder: Path, name: str) -> BinaryIO:
    """Open a file of a bundle for writing, below a folder of ours: never an old one, through a link, or executable."""
    target = folder
    for part in name.split("/")[:-1]:
        target /= part
        with contextlib.suppress(FileExistsError):
            target.mkdir(0o755)
    target = folder / name
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(target, flags, 0o644), "wb")


def _size(name: str, content: bytes | Path, manifest: Manifest) -> int:
    """Return how many bytes a file has; InputError where it is too large, or was changed since the manifest."""
    if isinstance(content, bytes):
        return len(content)
    try:
        size = content.stat().st_size
    except OSError as error:
        raise InputError(f"can't read {content}: {error.strerror}", fix="Check the path.") from error
    if size > FILE_BYTES:
        raise InputError(
            f"{name} has {size} bytes, and a file of a bundle at most {FILE_BYTES}",
            fix="Keep the weights in several files of external data.",
        )
    if size != manifest.files[name].bytes:
        raise _changed(content)
    return size


def _content(name: str, content: bytes | Path, manifest: Manifest) -> Iterator[bytes]:
    """Yield a file's bytes; InputError at their end where they are not those that the manifest tells of."""
    if isinstance(content, bytes):
        yield content
        return
    left, digest = manifest.files[name].bytes, hashlib.sha256()
    try:
        with content.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                left -= len(chunk)
                digest.update(chunk)
                yield chunk
    except OSError as error:
        raise InputError(f"can't read {content}: {error.strerror}", fix="Check the path.") from error
    if left or digest.hexdigest() != manifest.files[name].sha256:
        raise _changed(content)


def _changed(path: Path) -> InputError:
    return InputError(f"{path} was changed while it was packed", fix="Run it again.")
