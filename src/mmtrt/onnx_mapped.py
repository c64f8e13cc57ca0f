"""An ONNX file opened without its weights: they stay in the file, which becomes external data of itself.

A protobuf parser copies what it reads, checkers and shape inference serialise it again, and each session has its own
copy: five times a model's size before anything ran. Of weights only type and shape are needed to work on a graph; who
needs their values maps the file. What is read of the wire format is the nesting of three messages (ModelProto.graph,
GraphProto.initializer, TensorProto.raw_data), as https://protobuf.dev/programming-guides/encoding/ describes it.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import onnx

__all__ = ["MAPPED_BYTES", "mapped"]

MAPPED_BYTES = 1 << 16
"""Weights of fewer bytes are read: shape inference looks at small ones, and an entry would cost as much."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def _field(message: type, name: str) -> int:
    return int(message.DESCRIPTOR.fields_by_name[name].number)  # type: ignore[attr-defined]


_GRAPH = _field(onnx.ModelProto, "graph")
_INITIALIZER = _field(onnx.GraphProto, "initializer")
_RAW = _field(onnx.TensorProto, "raw_data")


def mapped(path: Path) -> onnx.ModelProto:
    """Return the model, the raw data of its large weights as external data in the file itself.

    External data of its own stays as it is. ValueError or protobuf's DecodeError where it is no protobuf message.
    """
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise ValueError("the file is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return onnx.ModelProto.FromString(bytes(_model(data, path.name)))


def _model(data: mmap.mmap, location: str) -> bytearray:
    out = bytearray()
    for number, start, body, end in _fields(data, 0, len(data)):
        out += _message(_GRAPH, _graph(data, body, end, location)) if number == _GRAPH else data[start:end]
    return out


def _graph(data: mmap.mmap, begin: int, stop: int, location: str) -> bytearray:
    out = bytearray()
    for number, start, body, end in _fields(data, begin, stop):
        out += _tensor(data, start, body, end, location) if number == _INITIALIZER else data[start:end]
    return out


def _tensor(data: mmap.mmap, begin: int, first: int, stop: int, location: str) -> bytes:
    """Return a tensor's field, its raw data replaced by where they lie."""
    fields = list(_fields(data, first, stop)) if stop - first >= MAPPED_BYTES else []
    large = [(body, end - body) for number, _, body, end in fields if number == _RAW and end - body >= MAPPED_BYTES]
    if len(large) != 1:
        return data[begin:stop]
    rest = b"".join(data[start:end] for number, start, _, end in fields if number != _RAW)
    tensor = onnx.TensorProto.FromString(rest)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in zip(("location", "offset", "length"), (location, *map(str, large[0])), strict=True):
        tensor.external_data.add(key=key, value=value)
    return _message(_INITIALIZER, tensor.SerializeToString())


def _fields(data: mmap.mmap, at: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield the number of each field of a message, where it starts, where its value starts, and where it ends."""
    while at < stop:
        start = at
        tag, at = _varint(data, at, stop)
        kind = tag & 7
        body = at
        if kind == _VARINT:
            _, at = _varint(data, at, stop)
        elif kind == _BYTES:
            size, body = _varint(data, at, stop)
            at = body + size
        elif kind in {_FIXED64, _FIXED32}:
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"byte {start} starts no protobuf field")
        if at > stop:
            raise ValueError(f"the field at byte {start} goes beyond the end")
        yield tag >> 3, start, body, at


def _varint(data: mmap.mmap, at: int, stop: int) -> tuple[int, int]:
    value = shift = 0
    while at < stop and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError(f"byte {at} ends no protobuf number")


def _message(number: int, body: bytes | bytearray) -> bytes:
    return _encoded(number << 3 | _BYTES) + _encoded(len(body)) + body


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
