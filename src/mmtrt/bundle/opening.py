"""Verifying a bundle, and unpacking one: every digest is right before anything of it is parsed or loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mmtrt.artifacts import machine_errors
from mmtrt.bundle.archive import MANIFEST, OUTER, SIGNATURE, Member, Sealed, members, new_file, sealed, unsafe
from mmtrt.bundle.manifest import Entry, Manifest, parse_manifest
from mmtrt.bundle.reading import resolved
from mmtrt.errors import MachineError

__all__ = ["Opened", "Trust", "unpack", "verify"]

Trust = Callable[[Sealed], str]
"""Verifies the signature of a sealed bundle before its manifest is parsed, and returns who signed it.

InputError (exit 3) where the signature is wrong, MachineError (exit 4) where one is required and there is none, or
where this machine can't verify it.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A bundle that was verified: its manifest, its outer digest, and who signed it.

    `signed_by` is empty where nobody was asked for, or where nobody signed it; `signed` tells whether there is a
    signature, be it verified or not.
    """

    path: Path
    manifest: Manifest
    digest: str
    size: int
    signed_by: str = ""
    signed: bool = False


def verify(path: Path, trust: Trust | None = None) -> Opened:
    """Verify all of a bundle and write nothing; InputError where it is altered or unsafe."""
    seal, opened = _opened(path, trust)
    for member, entry in _awaited(path, seal, opened):
        for _ in _right(path, member, entry):
            pass
    return opened


def unpack(path: Path, folder: Path, trust: Trust | None = None) -> Opened:
    """Verify a bundle and write its files into an empty folder, as the directory form has them.

    What is written is what was verified, byte for byte, also where the bundle is exchanged meanwhile; files are never
    executable, whatever the umask. After an error the folder's content is of no use. MachineError where the folder is
    not empty, or the disk is full.
    """
    seal, opened = _opened(path, trust)
    with _writing(folder):
        if any(folder.iterdir()):
            raise MachineError(f"{folder} is not empty", fix="Give an empty folder.")
        own = {OUTER: f"{seal.digest}\n".encode(), MANIFEST: seal.manifest, SIGNATURE: seal.signature}
        for name, content in own.items():
            if content is not None:
                with new_file(folder, name) as stream:
                    stream.write(content)
        for member, entry in _awaited(path, seal, opened):
            with new_file(folder, member.name) as stream:
                stream.writelines(_right(path, member, entry))
    return opened


def _opened(path: Path, trust: Trust | None) -> tuple[Sealed, Opened]:
    seal = sealed(resolved(path))
    signer = trust(seal) if trust is not None else ""
    manifest = parse_manifest(seal.manifest, str(path))
    signed = seal.signature is not None
    return seal, Opened(
        path=path, manifest=manifest, digest=seal.digest, size=seal.size, signed_by=signer, signed=signed
    )


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn what fails while a folder is written to into a MachineError; reading has errors of its own by then."""
    try:
        with machine_errors(str(folder)):
            yield
    except OSError as error:
        raise MachineError(f"can't write to {folder}: {error.strerror}", fix="Choose another place for it.") from error


def _awaited(path: Path, seal: Sealed, opened: Opened) -> Iterator[tuple[Member, Entry]]:
    """Yield each file with what the manifest says of it; refused where there is one too many, or one too few."""
    awaited = dict(opened.manifest.files)
    for member in members(seal.path, seal):
        entry = awaited.pop(member.name, None)
        if entry is None:
            raise unsafe(str(path), f"{member.name} is not in its manifest")
        if member.size != entry.bytes:
            raise unsafe(str(path), f"{member.name} has {member.size} bytes, and {entry.bytes} by its manifest")
        yield member, entry
    if awaited:
        raise unsafe(str(path), f"{min(awaited)} is missing")


def _right(path: Path, member: Member, entry: Entry) -> Iterator[bytes]:
    """Yield a file's bytes, and refuse it at its end where they are not those of its manifest."""
    digest = hashlib.sha256()
    for chunk in member.chunks:
        digest.update(chunk)
        yield chunk
    if digest.hexdigest() != entry.sha256:
        raise unsafe(str(path), f"{member.name} is not the file that its manifest tells of")
