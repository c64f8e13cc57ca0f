"""A plan of the stand-ins: a header as TensorRT's, what the builder was told as JSON, and the ONNX itself."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

__all__ = ["HEADER_BYTES", "pack", "unpack"]

HEADER_BYTES = 64
_VERSION = 1


def pack(magic: bytes, onnx: bytes, told: Mapping[str, Any]) -> bytes:
    """Return a plan. `told` holds `profile`, `{input: [min, opt, max]}`, and `work`: `run`, `none` or `spin:NS`."""
    text = json.dumps(told).encode()
    header = struct.pack("<4sIQQ", magic, _VERSION, len(text), len(onnx))
    return header.ljust(HEADER_BYTES, b"\0") + text + onnx


def unpack(magic: bytes, plan: bytes) -> tuple[bytes, dict[str, Any]]:
    """Return the ONNX and what was told; ValueError where it is no such plan."""
    if len(plan) < HEADER_BYTES:
        raise ValueError(f"{len(plan)} bytes are no engine")
    found, version, told, onnx = struct.unpack_from("<4sIQQ", plan)
    if found != magic or version != _VERSION:
        raise ValueError("Version tag does not match")
    if len(plan) != HEADER_BYTES + told + onnx:
        raise ValueError("the engine is not whole")
    return plan[HEADER_BYTES + told :], json.loads(plan[HEADER_BYTES : HEADER_BYTES + told])
