"""Reads picture files into 8-bit RGB: NPY, PPM, PGM and BMP by itself, all others where Pillow is installed."""

from __future__ import annotations

import importlib
import io
import math
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmtrt.errors import InputError, MachineError

__all__ = ["Pixels", "read_picture"]

Pixels = npt.NDArray[np.uint8]
_NPY, _BMP, _BMP_HEADER = b"\x93NUMPY", b"BM", 54
_PNM = re.compile(rb"P([56])((?:\s+|#[^\n]*\n)+)(\d{1,5})((?:\s+|#[^\n]*\n)+)(\d{1,5})((?:\s+|#[^\n]*\n)+)(\d{1,5})\s")


def read_picture(path: Path) -> Pixels:
    """Pixels `(height, width, 3)` of a file, or `(height, width)` where it is grey, told by its first bytes.

    InputError for a file that is missing or broken, MachineError for a format that only Pillow reads, without it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"can't read the picture {path}: {error.strerror}", fix="Check the path.") from error
    try:
        if data.startswith(_NPY):
            return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
        if found := _PNM.match(data):
            return _pnm(data, found)
        if data.startswith(_BMP) and _plain_bmp(data):
            return _bmp(data)
    except (ValueError, EOFError, MemoryError) as error:
        raise _broken(path, error) from error
    return _by_pillow(path, data)


def _broken(path: Path, error: Exception) -> InputError:
    return InputError(f"the picture {path} is broken: {error}", fix="Save it again.")


def _pnm(data: bytes, found: re.Match[bytes]) -> Pixels:
    width, height, top = int(found[3]), int(found[5]), int(found[7])
    if top != 255:
        raise ValueError(f"its largest value is {top}, where 255 is wanted")
    shape = (height, width, 3) if found[1] == b"6" else (height, width)
    return _shaped(data[found.end() :], shape)


def _plain_bmp(data: bytes) -> bool:
    """Tell whether it has 24 bits a pixel and is not compressed."""
    kind = (data[14:18], data[28:30], data[30:34])
    return kind == ((40).to_bytes(4, "little"), (24).to_bytes(2, "little"), bytes(4))


def _bmp(data: bytes) -> Pixels:
    start = int.from_bytes(data[10:14], "little")
    width, height = (int.from_bytes(data[at : at + 4], "little", signed=True) for at in (18, 22))
    if width <= 0 or not height or start < _BMP_HEADER:
        raise ValueError(f"its size is {width}x{height}")
    # Rows end at multiples of four bytes, and the lowest comes first where the height is positive.
    length = (3 * width + 3) // 4 * 4
    rows = _shaped(data[start:], (abs(height), length))[:, : 3 * width].reshape(abs(height), width, 3)
    return np.ascontiguousarray((rows[::-1] if height > 0 else rows)[:, :, ::-1])


def _shaped(data: bytes, shape: tuple[int, ...]) -> Pixels:
    count = math.prod(shape)
    if len(data) < count:
        raise ValueError(f"it has {len(data)} bytes of pixels, and {count} by its header")
    return np.frombuffer(data, np.uint8, count).reshape(shape)


def _by_pillow(path: Path, data: bytes) -> Pixels:
    if find_spec("PIL") is None:
        raise MachineError(
            f"{path} is no NPY, PPM, PGM or plain BMP, and Pillow, which reads other pictures, is not installed",
            fix="pip install pillow, or hand in a numpy array, (height, width, 3) uint8 RGB.",
        )
    pillow, image, operations = map(importlib.import_module, ("PIL", "PIL.Image", "PIL.ImageOps"))
    try:
        with image.open(io.BytesIO(data)) as opened:
            return np.asarray(operations.exif_transpose(opened).convert("RGB"))
    except pillow.UnidentifiedImageError as error:
        raise InputError(f"{path} is no picture that Pillow knows", fix="Save it as PNG or JPEG.") from error
    except Exception as error:  # of broken files its plugins raise anything: struct.error, IndexError, TypeError
        raise _broken(path, error) from error
