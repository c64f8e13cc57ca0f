"""Bundles taken apart, and put together as somebody would who knows the form."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from fuzz_base import contents, manifest_of, packed

from mmtrt.bundle.canonical import END, header, padding, seal_of


def folder_of(tmp_path: Path) -> Path:
    files = contents()
    return packed(tmp_path / "vqa", files, manifest_of(files), tar=False)


def stream_of(rows: Mapping[str, bytes]) -> bytes:
    """All bytes behind the seal: manifest and signature first, the others by name."""
    first = {"bundle.json": 0, "bundle.sig": 1}
    parts = []
    for name in sorted(rows, key=lambda name: (first.get(name, 2), name)):
        parts += [header(name, len(rows[name])), rows[name], padding(len(rows[name]))]
    return b"".join(parts) + END


def tar_of(out: Path, *parts: bytes) -> Path:
    inner = b"".join(parts)
    out.write_bytes(seal_of(hashlib.sha256(inner).hexdigest()) + inner)
    return out


def parts(files: Mapping[str, bytes]) -> list[bytes]:
    rows = {"bundle.json": manifest_of(files).to_bytes(), **dict(sorted(files.items()))}
    return [header(name, len(data)) + data + padding(len(data)) for name, data in rows.items()]
