"""ONNX files opened and written without their weights in memory; opened, a file is external data of itself.

A protobuf parser copies what it reads, checkers and shape inference serialise it again, and each session has its own
copy: five times a model's size before anything ran. Of weights only type and shape are needed to work on a graph; who
needs their values maps the file. What is read of the wire format is the nesting of three messages (ModelProto.graph,
GraphProto.initializer, TensorProto.raw_data), as https://protobuf.dev/programming-guides/encoding/ describes it.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from onnx import numpy_helper

from mmtrt.tensors import Array

__all__ = [
    "MAPPED_BYTES",
    "is_external",
    "mapped",
    "raw_pieces",
    "weight_bytes",
    "weight_chunks",
    "with_small_weights",
    "write_model",
]

MAPPED_BYTES = 1 << 16
"""Weights of fewer bytes are read: shape inference looks at small ones, and an entry would cost as much."""

_CHUNK = 1 << 22
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


def with_small_weights(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """Read the small ones of a model's external data, which lie in `folder`, into the model; returns it."""
    for tensor in model.graph.initializer:
        if is_external(tensor) and weight_bytes(tensor) < MAPPED_BYTES:
            data = b"".join(raw_pieces(tensor, folder))
            del tensor.external_data[:]
            tensor.ClearField("data_location")
            tensor.raw_data = data
    return model


def is_external(tensor: onnx.TensorProto) -> bool:
    """Tell whether a tensor's values lie in a file."""
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def weight_bytes(tensor: onnx.TensorProto) -> int:
    """Return how many bytes a tensor takes, wherever they lie."""
    if not is_external(tensor):
        return int(tensor.ByteSize())
    itemsize = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
    return int(_place(tensor).get("length") or math.prod(tensor.dims) * itemsize)


def weight_chunks(tensor: onnx.TensorProto, folder: Path) -> Iterator[Array]:
    """Yield a tensor's values, flat, some megabytes at a time; external data lie in `folder`."""
    if not is_external(tensor):
        yield numpy_helper.to_array(tensor).reshape(-1)
        return
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    for piece in raw_pieces(tensor, folder):
        yield np.frombuffer(piece, dtype)


def write_model(model: onnx.ModelProto, folder: Path | None, out: BinaryIO) -> None:
    """Write what protobuf would write of a model, its external data of `folder` inside; no copy is made of a weight.

    Without a folder, what is external stays so.
    """
    shell, graph = onnx.ModelProto(), onnx.GraphProto()
    _copy_fields(model, shell, but="graph")
    _copy_fields(model.graph, graph, but="initializer")
    weights = [_weight(tensor, folder) for tensor in model.graph.initializer]
    sizes = [sum(map(len, parts)) + (weight_bytes(source) if source else 0) for *parts, source in weights]
    heads = [_encoded(_INITIALIZER << 3 | _BYTES) + _encoded(size) for size in sizes]
    graph_head, graph_tail = _split(graph.SerializeToString(deterministic=True), _INITIALIZER)
    head, tail = _split(shell.SerializeToString(deterministic=True), _GRAPH)
    length = len(graph_head) + sum(map(len, heads)) + sum(sizes) + len(graph_tail)
    out.write(head + _encoded(_GRAPH << 3 | _BYTES) + _encoded(length) + graph_head)
    for start, (before, after, source) in zip(heads, weights, strict=True):
        out.write(start + before)
        if source is not None and folder is not None:
            out.writelines(raw_pieces(source, folder))
        out.write(after)
    out.write(graph_tail + tail)


def _copy_fields(source: Any, target: Any, *, but: str) -> None:
    for field, value in source.ListFields():
        if field.name == but:
            continue
        if field.is_repeated:
            getattr(target, field.name).extend(value)
        else:
            setattr(target, field.name, value)


def _weight(tensor: onnx.TensorProto, folder: Path | None) -> tuple[bytes, bytes, onnx.TensorProto | None]:
    """Return a tensor's message, split where its external data belong, and the tensor where it has any."""
    if folder is None or not is_external(tensor):
        return tensor.SerializeToString(deterministic=True), b"", None
    light = onnx.TensorProto()
    light.CopyFrom(tensor)
    del light.external_data[:]
    light.ClearField("data_location")
    before, after = _split(light.SerializeToString(deterministic=True), _RAW)
    return before + _encoded(_RAW << 3 | _BYTES) + _encoded(weight_bytes(tensor)), after, tensor


def _split(message: bytes, number: int) -> tuple[bytes, bytes]:
    """Split a message where a field of this number belongs: protobuf writes them in the order of their numbers."""
    at = next((start for field, start, _, _ in _fields(message, 0, len(message)) if field > number), len(message))
    return message[:at], message[at:]


def _place(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def raw_pieces(tensor: onnx.TensorProto, folder: Path) -> Iterator[bytes]:
    """Yield a tensor's raw bytes; external data are read, not mapped: pages of a mapped file would count as memory."""
    if not is_external(tensor):
        yield tensor.raw_data
        return
    place = _place(tensor)
    left = weight_bytes(tensor)
    with (folder / place["location"]).open("rb") as file:
        file.seek(int(place.get("offset", 0)))
        while left:
            piece = file.read(min(left, _CHUNK))
            if not piece:
                raise ValueError(f"{place['location']} ends within {tensor.name!r}")
            yield piece
            left -= len(piece)


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


def _fields(data: mmap.mmap | bytes, at: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
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


def _varint(data: mmap.mmap | bytes, at: int, stop: int) -> tuple[int, int]:
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
