"""The one form in which a bundle's files stand in its stream of bytes: a POSIX ustar without anything to choose.

A header is written here byte by byte, not by `tarfile`, whose unused fields differ between releases of Python: a
bundle of one machine must be the same bytes on any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from mmtrt.errors import InputError

__all__ = [
    "BLOCK",
    "BUNDLE_BYTES",
    "CHUNK",
    "END",
    "FILES",
    "FILE_BYTES",
    "MANIFEST",
    "OUTER",
    "RESERVED",
    "SIGNATURE",
    "SIGNATURE_BYTES",
    "Refused",
    "check_name",
    "check_names",
    "header",
    "padding",
    "seal_of",
    "unsafe",
]

OUTER, MANIFEST, SIGNATURE = "bundle.sha256", "bundle.json", "bundle.sig"
RESERVED = frozenset({OUTER, MANIFEST, SIGNATURE})
SIGNATURE_BYTES = 1 << 20
FILE_BYTES = 8**11 - 1
"""The largest file that a ustar header can tell of, 8 GiB less a byte."""

BUNDLE_BYTES = 64 << 30
"""A larger bundle is refused before it is hashed: a sparse file of exabytes would take years."""

FILES = 10_000
"""How many files a bundle has at most, beside the three of its own."""

BLOCK, CHUNK = 512, 1 << 20
END = bytes(2 * BLOCK)

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.+-]*"
_NAME = re.compile(rf"{_PART}(?:/{_PART}){{0,3}}")
_LONGEST = 100  # what a ustar header holds without a prefix
# Names that Windows keeps for devices, whatever their suffix.
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)


class Refused(Exception):  # noqa: N818  # it says why, and becomes an InputError that names the bundle
    """Why a bundle is refused."""


def unsafe(what: str, why: str) -> InputError:
    """Return the error for a bundle that is altered or unsafe: exit code 3."""
    return InputError(f"the bundle {what} is refused: {why}", fix="Get it again from where it was made.")


def check_name(name: str) -> str:
    """Return a file's name within a bundle as it is; ValueError where it could lead out of it, or is no plain name."""
    plain = len(name) <= _LONGEST and _NAME.fullmatch(name)
    if not plain or any(_DEVICE.fullmatch(part) or part.endswith(".") for part in name.split("/")):
        raise ValueError(f"{name[:_LONGEST]!r} is no name for a file of a bundle")
    return name


def check_names(names: Iterable[str]) -> None:
    """Raise ValueError where names can't stand in one directory, be it one that takes `A` for `a`."""
    folders: dict[str, str] = {}
    files: set[str] = {name.lower() for name in RESERVED}
    for name in names:
        if check_name(name).lower() in files:
            raise ValueError(f"{name!r} stands twice, or two names differ in case only")
        files.add(name.lower())
        parts = name.split("/")
        for count in range(1, len(parts)):
            folder = "/".join(parts[:count])
            if folders.setdefault(folder.lower(), folder) != folder:
                raise ValueError(f"the folders of {name!r} and of another file differ in case only")
    if clash := min(files & folders.keys(), default=None):
        raise ValueError(f"{clash!r} is a file and a folder")


def header(name: str, size: int) -> bytes:
    """Return the ustar header, 512 bytes, of a plain file; ValueError where it has no room for name or size."""
    if not 0 <= size <= FILE_BYTES:
        raise ValueError(f"{name} has {size} bytes, and a file of a bundle at most {FILE_BYTES}")
    fields = [
        name.encode("ascii").ljust(100, b"\0"),
        b"0000644\0" + b"0000000\0" * 2,  # mode, user, group
        b"%011o\0" % size,
        b"%011o\0" % 0,  # time
        b" " * 8,  # the checksum is over itself as spaces
        b"0" + bytes(100),  # a plain file, which links to nothing
        b"ustar\x0000" + bytes(64),  # no names of user and group
        bytes(16 + 155 + 12),  # no device, no prefix
    ]
    block = b"".join(fields)
    if len(block) != BLOCK:
        raise ValueError(f"{name!r} is too long for a ustar header")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def padding(size: int) -> bytes:
    """Return the zeros behind a file of `size` bytes, up to the next block."""
    return bytes(-size % BLOCK)


def seal_of(digest: str) -> bytes:
    """Return the first two blocks of a bundle: the file of its outer digest."""
    content = f"{digest}\n".encode()
    return header(OUTER, len(content)) + content + padding(len(content))
