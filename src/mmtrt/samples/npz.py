"""Reading an `.npz` within bounds: what it says it holds is known, and limited, before anything is decompressed.

An `.npz` is a ZIP file, and a kilobyte of one may decompress to gigabytes.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mmtrt.errors import SampleError
from mmtrt.tensors import Array

__all__ = ["EXPANDED", "PLENTY", "check_npz", "read_npz"]

PLENTY = 1 << 30
"""A file that holds no more bytes than this is read, however small it is."""

EXPANDED = 64
"""One that holds more must itself have a part of them as large as this; deflate makes a thousandth of zeros."""

_MEMBERS = 4096
_DIRECTORY_BYTES = 4 << 20
_HEADER_BYTES = 1 << 16


def read_npz(file: Path, *, without: tuple[str, ...] = ()) -> dict[str, Array]:
    """Return the arrays of a file, but for those whose names begin with one of `without`; SampleError where it can't.

    No pickle is opened, and no more is decompressed than its directory tells, which `EXPANDED` limits.
    """
    with _opened(file) as archive:
        rows = _members(archive, max(PLENTY, EXPANDED * file.stat().st_size))
        taken = [row for row in rows if not row.filename.startswith(without)]
        return {row.filename.removesuffix(".npy"): _array(_content(archive, row)) for row in taken}


def check_npz(files: Iterable[Path], limit: int) -> None:
    """Raise SampleError where files, all together, hold more than `limit` bytes once decompressed; reads no arrays."""
    left = limit
    for file in files:
        with _opened(file) as archive:
            left -= sum(row.file_size for row in _members(archive, left))


@contextmanager
def _opened(file: Path) -> Iterator[zipfile.ZipFile]:
    """Open a file's archive; what goes wrong with it is a SampleError that names it."""
    try:
        with file.open("rb", buffering=0) as raw, _Bounded(raw) as stream, zipfile.ZipFile(_archive(stream)) as archive:
            stream.most = None
            yield archive
    # What is encrypted is a RuntimeError to zipfile; an array may be said to have any shape.
    except (OSError, ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise SampleError(f"{file} is no readable .npz: {error}", fix="Write it with numpy.savez.") from error


class _Bounded(io.BufferedReader):
    """A file of which no more than `most` bytes are read at once: zipfile reads a directory of any size."""

    most: int | None = _DIRECTORY_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as a file does; ValueError for more than that."""
        if self.most is not None and size is not None and size > self.most:
            raise ValueError(f"its directory has {size} bytes, more than {self.most}")
        return super().read(size)


def _archive(stream: io.BufferedReader) -> BinaryIO:
    # zipfile finds one in the middle of anything.
    if stream.read(2) != b"PK":
        raise ValueError("it is no archive")
    return stream


def _members(archive: zipfile.ZipFile, limit: int) -> list[zipfile.ZipInfo]:
    rows = archive.infolist()
    if len(rows) > _MEMBERS:
        raise ValueError(f"it has more than {_MEMBERS} arrays")
    if len({row.filename for row in rows}) < len(rows):
        raise ValueError("two arrays have one name")
    for row in rows:
        # Others take memory that no size tells of.
        if row.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise ValueError(f"{row.filename} is neither stored nor deflated")
    if (total := sum(row.file_size for row in rows)) > limit:
        raise ValueError(f"it holds {total} bytes, more than {limit}")
    return rows


def _content(archive: zipfile.ZipFile, row: zipfile.ZipInfo) -> bytes:
    with archive.open(row) as stream:
        # Without a size, zipfile decompresses all there is before it looks at what was told.
        data = stream.read(row.file_size)
        if len(data) < row.file_size or stream.read(1):
            raise ValueError(f"{row.filename} has another size than is told")
        return data


def _array(data: bytes) -> Array:
    """Return the array of a `.npy`; ValueError where it is none, or a pickle, which would run its writer's code."""
    version = np.lib.format.read_magic(io.BytesIO(data))
    if version not in {(1, 0), (2, 0)}:
        raise ValueError(f"an array of numpy's format {version[0]}.{version[1]}")
    width = 2 if version == (1, 0) else 4
    length = int.from_bytes(data[8 : 8 + width], "little")
    if length > _HEADER_BYTES:
        raise ValueError(f"an array whose header has {length} bytes")
    head = 8 + width + length
    shape, fortran, dtype = _header(version, data[8:head])
    if dtype.hasobject:
        raise ValueError("an array of Python objects is not opened")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data) - head:
        raise ValueError(f"an array of shape {shape} has {len(data) - head} bytes")
    found: Array = np.frombuffer(data, dtype, offset=head).reshape(shape, order="F" if fortran else "C")
    # Of bytes it can't be written to; a sample may be worked on in place.
    writable: Array = found.copy(order="K")
    return writable


@lru_cache(maxsize=1024)
def _header(version: tuple[int, int], header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, order and dtype: numpy parses them as Python, which takes longer than a sample's arrays do."""
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        found: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(io.BytesIO(header))
    except Exception as error:  # of text that is no header it raises what Python's own parser does
        raise ValueError(f"an array without a header: {error}"[:200]) from error
    return found
