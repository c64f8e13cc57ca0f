"""What an attacker changes in a bundle: by kind, each a function of a random source and of the genuine bundle."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmtrt.bundle.canonical import BLOCK, END, MANIFEST, OUTER, SIGNATURE, padding, seal_of
from mmtrt.bundle.canonical import header as genuine_header

__all__ = ["KINDS", "Genuine", "Kind"]

NAMES = (
    "../evil",
    "../../evil",
    "/evil",
    "golden/../../evil",
    "..",
    ".",
    "./a",
    "a//b",
    "a/",
    "-rf",
    "~/a",
    "a\\b",
    "a b",
    "a:b",
    "con",
    "NUL.onnx",
    "a.",
    "a\n",
    "golden",
    "models/int8.onnx/x",
    "MODELS/a",
    "Preprocessing.json",
    "BUNDLE.JSON",
    "bundle.sig/a",
    "mod\u00e8le",
    "a\u202eb",
    "",
    "a" * 101,
    "a/b/c/d/e",
)
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**53, 2**64, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "a", "../a", "/a", "a\0b", "\x1b[2J", "\ud800", "a" * 5000, "int8", "golden", "bundle.json"),
    *([], [None], [[]], {}, {"": 0}, {"../a": {}}),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Genuine:
    """The bundle that attacks start from: its members in their order, each form of it, and folders to work in."""

    members: Mapping[str, bytes]
    tar: bytes
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One way of changing a bundle; `sealed` tells that its outer digest was left as it was, so nothing may pass."""

    make: Callable[[random.Random, Genuine, Path], None]
    sealed: bool


def header(name: str, size: int, *, mode: bytes = b"0000644\0", kind: bytes = b"0") -> bytes:
    """Return a header for any name, with a right checksum."""
    head = bytearray(genuine_header("x", min(max(size, 0), 8**11 - 1)))
    head[:100] = name.encode("utf-8", "surrogatepass")[:100].ljust(100, b"\0")
    head[100:108] = mode
    head[156:157] = kind
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def stream(members: Mapping[str, bytes]) -> bytes:
    """Return the bytes behind the seal."""
    return b"".join(header(name, len(data)) + data + padding(len(data)) for name, data in members.items()) + END


def sealed(inside: bytes) -> bytes:
    """Return a file whose outer digest is right."""
    return seal_of(hashlib.sha256(inside).hexdigest()) + inside


def with_manifest(genuine: Genuine, told: Any, members: Mapping[str, bytes] | None = None) -> bytes:
    """Return a file with another manifest, all digests right."""
    rows = dict(genuine.members if members is None else members)
    rows[MANIFEST] = json.dumps(told, indent=2).encode("utf-8", "surrogatepass")
    first = {MANIFEST: 0, SIGNATURE: 1}
    return sealed(stream({name: rows[name] for name in sorted(rows, key=lambda name: (first.get(name, 2), name))}))


# ------------------------------------------------------------------------------------------------- any bytes whatever


def flipped(source: random.Random, data: bytes) -> bytes:
    """Flip one bit."""
    out = bytearray(data)
    at = source.randrange(8 * len(out))
    out[at // 8] ^= 1 << at % 8
    return bytes(out)


def cut(source: random.Random, data: bytes) -> bytes:
    """Cut the end off, now and then at a block."""
    at = source.randrange(len(data))
    return data[: at if source.random() < 0.5 else at // BLOCK * BLOCK]


def inserted(source: random.Random, data: bytes) -> bytes:
    """Put bytes in, of chance, of zeros, or of its own."""
    at, size = source.randrange(len(data) + 1), source.choice([1, 2, BLOCK - 1, BLOCK, 2 * BLOCK])
    own = source.randrange(len(data))
    return data[:at] + source.choice([source.randbytes(size), bytes(size), data[own : own + size]]) + data[at:]


def removed(source: random.Random, data: bytes) -> bytes:
    """Take bytes out."""
    at, size = source.randrange(len(data)), source.choice([1, 2, BLOCK, 3 * BLOCK])
    return data[:at] + data[at + size :]


def exchanged(source: random.Random, data: bytes) -> bytes:
    """Exchange two blocks."""
    first, second = sorted(source.sample(range(len(data) // BLOCK), 2))
    blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
    blocks[first], blocks[second] = blocks[second], blocks[first]
    return b"".join(blocks)


CHANGES = (flipped, cut, inserted, removed, exchanged)


def regions(genuine: Genuine) -> dict[str, list[tuple[int, int]]]:
    """Return where the seal, headers, manifest, data, padding and the end stand in a file."""
    start = len(seal_of("0" * 64))
    out: dict[str, list[tuple[int, int]]] = {"seal": [(0, start)], "headers": [], "data": [], "padding": []}
    for name, data in genuine.members.items():
        body, end = start + BLOCK, start + BLOCK + len(data)
        out["headers"].append((start, body))
        out.setdefault(name if name in {MANIFEST, SIGNATURE} else "data", []).append((body, end))
        out["padding"].append((end, end + len(padding(len(data)))))
        start = end + len(padding(len(data)))
    return {name: [(a, b) for a, b in spans if b > a] for name, spans in out.items()} | {
        "end": [(start, start + len(END))]
    }


# ------------------------------------------------------------------------------------------------------- a file's kinds


def flip(source: random.Random, genuine: Genuine, path: Path) -> None:
    """Flip a bit anywhere."""
    path.write_bytes(flipped(source, genuine.tar))


def flip_region(source: random.Random, genuine: Genuine, path: Path) -> None:
    """Flip a bit in each region as often."""
    begin, end = source.choice(source.choice(list(regions(genuine).values())))
    path.write_bytes(genuine.tar[:begin] + flipped(source, genuine.tar[begin:end]) + genuine.tar[end:])


def change(source: random.Random, genuine: Genuine, path: Path) -> None:
    """Cut, insert, remove, exchange."""
    path.write_bytes(source.choice(CHANGES[1:])(source, genuine.tar))


def reseal(source: random.Random, genuine: Genuine, path: Path) -> None:
    """Change what is inside, and compute the outer digest anew."""
    inside = genuine.tar[len(seal_of("0" * 64)) :]
    for _ in range(source.randint(1, 2)):
        inside = source.choice(CHANGES)(source, inside) or inside
    path.write_bytes(sealed(inside))


def reseal_members(source: random.Random, genuine: Genuine, path: Path) -> None:
    """Leave out, add, double, exchange or retype members, and compute the outer digest anew."""
    rows = [(name, data, header(name, len(data))) for name, data in genuine.members.items()]
    at, other = source.randrange(1, len(rows)), source.randrange(len(rows))
    name, data, _ = rows[at]
    how = source.randrange(5)
    if how == 0:
        del rows[at]
    elif how == 1:
        rows.insert(other, rows[at])
    elif how == 2:
        rows[at], rows[other] = rows[other], rows[at]
    elif how == 3:
        kind, mode = source.choice(b"\0123456789gxLKSV"), source.choice([b"0000755\0", b"0004755\0", b"0000644\0"])
        rows[at] = (name, data, header(name, len(data), mode=mode, kind=bytes([kind])))
    else:
        size = source.choice([0, 1, len(data) + 1, 1 << 30, 8**11 - 1])
        rows[at] = (name, data, header(name, size))
    path.write_bytes(sealed(b"".join(head + data + padding(len(data)) for _, data, head in rows) + END))


def name(source: random.Random, genuine: Genuine, path: Path) -> None:
    """Give a file a name that leads out or clashes, all digests right."""
    told = json.loads(genuine.members[MANIFEST])
    hostile, data = source.choice(NAMES), b"evil"
    told["files"][hostile] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    if source.random() < 0.5:
        source.choice(list(told["models"].values()))["data"] = [hostile]
    path.write_bytes(with_manifest(genuine, told, {**genuine.members, hostile: data}))


def structure(source: random.Random, genuine: Genuine, path: Path) -> None:
    """Put anything anywhere into the manifest, all digests right."""
    told = json.loads(genuine.members[MANIFEST])
    for _ in range(source.randint(1, 3)):
        inner: Any = told
        while True:
            key = source.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
            if not isinstance(inner[key], dict | list) or not inner[key] or source.random() < 0.3:
                break
            inner = inner[key]
        if source.random() < 0.3:
            del inner[key]
        else:
            inner[key] = source.choice(ODD)
        if not told:
            break
    path.write_bytes(with_manifest(genuine, told))


def text(source: random.Random, genuine: Genuine, path: Path) -> None:
    """Change the manifest's text, all digests right."""
    data = genuine.members[MANIFEST]
    for _ in range(source.randint(1, 4)):
        at = source.randrange(len(data))
        piece = source.choice([b'"', b"{", b"[" * 2000, b"]", b",", b"NaN", b"1e999", b"9" * 6000, b"\\ud800", b"\xff"])
        data = data[:at] + piece + data[at + source.randrange(3) :]
    path.write_bytes(sealed(stream({**genuine.members, MANIFEST: data})))


def remade(source: random.Random, genuine: Genuine, path: Path) -> None:
    """Change a file, and compute each digest anew: only a signature tells."""
    told = json.loads(genuine.members[MANIFEST])
    chosen = source.choice(sorted(told["files"]))
    data = source.randbytes(source.randrange(2000))
    told["files"][chosen] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    members = {**genuine.members, chosen: data}
    if source.random() < 0.3:
        members.pop(SIGNATURE, None)
    path.write_bytes(with_manifest(genuine, told, members))


def signature(source: random.Random, genuine: Genuine, path: Path) -> None:
    """Change the signature, and compute the outer digest anew."""
    data = genuine.members.get(SIGNATURE, b"{}")
    for _ in range(source.randint(1, 2)):
        data = source.choice(CHANGES[:4])(source, data) or b"{"
    path.write_bytes(sealed(stream({MANIFEST: genuine.members[MANIFEST], SIGNATURE: data, **genuine.members})))


# -------------------------------------------------------------------------------------------------- a directory's kinds


def reseal_folder(folder: Path) -> None:
    """Compute the outer digest of a directory anew."""
    first = {MANIFEST: 0, SIGNATURE: 1}
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != OUTER]
    rows = {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}
    ordered = {key: rows[key] for key in sorted(rows, key=lambda key: (first.get(key, 2), key))}
    (folder / OUTER).write_text(f"{hashlib.sha256(stream(ordered)).hexdigest()}\n")


def folder_flip(source: random.Random, genuine: Genuine, path: Path) -> None:
    """Flip a bit in a directory, each byte as likely."""
    shutil.copytree(genuine.folder, path)
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.stat().st_size)
    chosen = source.choices(files, [p.stat().st_size for p in files])[0]
    chosen.write_bytes(flipped(source, chosen.read_bytes()))


def folder_reseal(source: random.Random, genuine: Genuine, path: Path) -> None:
    """Change a file of a directory, and compute the outer digest anew."""
    shutil.copytree(genuine.folder, path)
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.name not in {OUTER, MANIFEST, SIGNATURE})
    chosen = source.choice(files)
    how = source.randrange(4)
    if how == 0:
        chosen.write_bytes(flipped(source, chosen.read_bytes() or b"\0"))
    elif how == 1:
        chosen.write_bytes(inserted(source, chosen.read_bytes() or b"\0"))
    elif how == 2:
        chosen.unlink()
        if not any(chosen.parent.iterdir()):
            chosen.parent.rmdir()
    else:
        chosen.with_name("more").write_bytes(source.randbytes(3))
    reseal_folder(path)


def folder_kind(source: random.Random, genuine: Genuine, path: Path) -> None:
    """Put a link, a FIFO, a socket, a folder or a hidden file into a directory."""
    shutil.copytree(genuine.folder, path)
    chosen = source.choice(sorted(p for p in path.rglob("*") if p != path / OUTER or source.random() < 0.5))
    aside = path.with_name("aside")
    how = source.randrange(6)
    if how == 0:
        chosen.rename(aside)
        chosen.symlink_to(aside)
    elif how == 1:
        chosen.with_name("more").symlink_to(source.choice(["/etc/passwd", chosen.name, "none", ".."]))
    elif how == 2:
        os.mkfifo(chosen.with_name("more"))
    elif how == 3:
        made = socket.socket(socket.AF_UNIX)
        folder = os.open(chosen.parent, os.O_RDONLY)
        made.bind(f"/proc/self/fd/{folder}/more")
        made.close()
        os.close(folder)
    elif how == 4:
        chosen.with_name("more").mkdir()
    else:
        chosen.with_name(source.choice([".more", "more ", "con", "m\u00f6re", "more.", "-more"])).write_bytes(b"")
    if source.random() < 0.5 and (path / OUTER).is_file() and how != 0:
        reseal_folder(path)


KINDS = {
    "flip": Kind(make=flip, sealed=True),
    "flip-region": Kind(make=flip_region, sealed=True),
    "change": Kind(make=change, sealed=True),
    "folder-flip": Kind(make=folder_flip, sealed=True),
    "folder-kind": Kind(make=folder_kind, sealed=True),
    "folder-reseal": Kind(make=folder_reseal, sealed=False),
    "reseal": Kind(make=reseal, sealed=False),
    "reseal-members": Kind(make=reseal_members, sealed=False),
    "name": Kind(make=name, sealed=True),
    "structure": Kind(make=structure, sealed=False),
    "text": Kind(make=text, sealed=False),
    "remade": Kind(make=remade, sealed=False),
    "signature": Kind(make=signature, sealed=False),
}
