"""Verifying a bundle, and unpacking one: every digest is right before anything of it is parsed or loaded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmtrt.artifacts import machine_errors
from mmtrt.bundle.archive import MANIFEST, OUTER, SIGNATURE, Member, Sealed, members, sealed, unsafe
from mmtrt.bundle.manifest import Entry, Manifest, parse_manifest

__all__ = ["Opened", "Trust", "unpack", "verify"]

Trust = Callable[[Sealed], str]
"""Verifies the signature of a sealed bundle before its manifest is parsed, and returns who signed it.

InputError (exit 3) where the signature is wrong or missing, MachineError (exit 4) where this machine can't verify.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A bundle that was verified: its manifest, its outer digest, and who signed it (empty: nobody was asked for)."""

    path: Path
    manifest: Manifest
    digest: str
    size: int
    signed_by: str = ""


def verify(path: Path, trust: Trust | None = None) -> Opened:
    """Verify all of a bundle and write nothing; InputError where it is altered or unsafe."""
    seal, opened = _opened(path, trust)
    _through(path, seal, opened, None)
    return opened


def unpack(path: Path, folder: Path, trust: Trust | None = None) -> Opened:
    """Verify a bundle and write its files into an empty folder, as the directory form has them.

    What is written is what was verified, byte for byte, also where the bundle is exchanged meanwhile. After an error
    the folder's content is of no use.
    """
    seal, opened = _opened(path, trust)
    with machine_errors(str(folder)):
        (folder / OUTER).write_bytes(f"{seal.digest}\n".encode())
        (folder / MANIFEST).write_bytes(seal.manifest)
        if seal.signature is not None:
            (folder / SIGNATURE).write_bytes(seal.signature)
        _through(path, seal, opened, folder)
    return opened


def _opened(path: Path, trust: Trust | None) -> tuple[Sealed, Opened]:
    seal = sealed(path.resolve())
    signer = trust(seal) if trust is not None else ""
    manifest = parse_manifest(seal.manifest, str(path))
    return seal, Opened(path=path, manifest=manifest, digest=seal.digest, size=seal.size, signed_by=signer)


def _through(path: Path, seal: Sealed, opened: Opened, folder: Path | None) -> None:
    """Hold each file against the manifest, and write it where there is a folder."""
    awaited = dict(opened.manifest.files)
    for member in members(path.resolve(), seal):
        entry = awaited.pop(member.name, None)
        if entry is None:
            raise unsafe(str(path), f"{member.name} is not in its manifest")
        if member.size != entry.bytes:
            raise unsafe(str(path), f"{member.name} has {member.size} bytes, and {entry.bytes} by its manifest")
        _one(path, member, entry, folder)
    if awaited:
        raise unsafe(str(path), f"{min(awaited)} is missing")


def _one(path: Path, member: Member, entry: Entry, folder: Path | None) -> None:
    target = Path(os.devnull)
    if folder is not None:
        target = folder / member.name
        target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    # "x": a file is never written twice, nor through a link.
    with target.open("wb" if folder is None else "xb") as stream:
        for chunk in member.chunks:
            digest.update(chunk)
            stream.write(chunk)
    if digest.hexdigest() != entry.sha256:
        raise unsafe(str(path), f"{member.name} is not the file that its manifest tells of")
