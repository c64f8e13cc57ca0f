"""What an ONNX file names, files and operators, read from protobuf's wire format without onnx and without its weights.

A parser opens the files that a model names, and loads what its operators ask for, so both are known before one sees
the model. Read is the nesting of messages, as https://protobuf.dev/programming-guides/encoding/ describes it, more
strictly than protobuf does: what two readers could read in two ways is refused. Neither memory nor time depends on how
large the weights are.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mmtrt.errors import InputError

__all__ = ["NESTED", "Named", "Place", "named"]

# By message, what is in its fields that has tensors, nodes or both within.
NESTED: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "TensorProto": {13: "StringStringEntryProto"},
}
# Texts by message and field; external data have keys and values of their own.
_TEXTS = {
    "NodeProto": {4: "name", 7: "domain"},
    "FunctionProto": {1: "name", 10: "domain"},
    "StringStringEntryProto": {1: "key", 2: "value"},
}

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DEPTH = 100  # protobuf's own
_FIELDS = 5_000_000
_TEXT_BYTES = 1024
_MEMBER = "It was not written by mmtrt: make the bundle again."


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor's values lie: a file as the model names it, first byte and size in bytes (None: not told)."""

    location: str
    offset: int
    length: int | None


@dataclass(slots=True)
class Named:
    """What an ONNX file names: places of external data, operators used and functions made, as (domain, name)."""

    places: set[Place] = field(default_factory=set)
    operators: set[tuple[str, str]] = field(default_factory=set)
    functions: set[tuple[str, str]] = field(default_factory=set)


def named(path: Path) -> Named:
    """Return what an ONNX file names; InputError where it is no ONNX file, or could be read in more than one way."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream, mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as data:
            del stream
            return _Walk(data).named()
    except ValueError as error:  # an empty file as well
        raise InputError(f"{path} is no ONNX file that is safe to parse: {error}", fix=_MEMBER) from error
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror}", fix="Check the path.") from error


class _Walk:
    """Goes through all messages of a file that may have names in them, each field once."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._left = _FIELDS

    def named(self) -> Named:
        # What is not binary TensorRT's parser tries to read as text; none starts with this byte, each ONNX file does.
        if self._data[0] != 1 << 3 | _VARINT:
            raise ValueError("it does not start with ir_version")
        out = Named()
        waiting = [("ModelProto", 0, len(self._data), 0)]
        while waiting:
            message, begin, stop, depth = waiting.pop()
            if depth > _DEPTH:
                raise ValueError(f"it is deeper than {_DEPTH} messages")
            texts, inner = self._message(message, begin, stop)
            if message == "NodeProto":
                out.operators.add((texts.get("domain", ""), texts.get("name", "")))
            elif message == "FunctionProto":
                out.functions.add((texts.get("domain", ""), texts.get("name", "")))
            if message == "TensorProto":
                if inner:
                    out.places.add(self._place(inner))
            else:
                waiting += [(kind, body, end, depth + 1) for kind, body, end in inner]
        return out

    def _message(self, message: str, begin: int, stop: int) -> tuple[dict[str, str], list[tuple[str, int, int]]]:
        """Return a message's own texts by name, and the messages in it that are of interest."""
        names, nested = _TEXTS.get(message, {}), NESTED.get(message, {})
        texts: dict[str, str] = {}
        inner: list[tuple[str, int, int]] = []
        for number, body, end in self._fields(begin, stop):
            if number in names:
                _put(texts, names[number], _text(self._data, body, end))
            elif number in nested:
                inner.append((nested[number], body, end))
        return texts, inner

    def _place(self, entries: list[tuple[str, int, int]]) -> Place:
        found: dict[str, str] = {}
        for kind, begin, stop in entries:
            entry, _ = self._message(kind, begin, stop)
            _put(found, entry.get("key", ""), entry.get("value", ""))
        if "location" not in found:
            raise ValueError("a tensor's values lie in a file that is not named")
        length = found.get("length")
        return Place(found["location"], _number(found.get("offset", "0")), None if length is None else _number(length))

    def _fields(self, at: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yield number, begin and end of each field of a message that has a length: all that is told here has one."""
        data = self._data
        while at < stop:
            start = at
            self._left -= 1
            if self._left < 0:
                raise ValueError(f"it has more than {_FIELDS} fields")
            tag, at = _varint(data, at, stop, 5)
            kind = tag & 7
            if tag >> 32 or not tag >> 3:
                raise ValueError(f"byte {start} starts no protobuf field")
            body = at
            if kind == _VARINT:
                _, at = _varint(data, at, stop, 10)
            elif kind == _BYTES:
                size, body = _varint(data, at, stop, 5)
                at = body + size
            elif kind in {_FIXED64, _FIXED32}:
                at += 8 if kind == _FIXED64 else 4
            else:
                raise ValueError(f"byte {start} starts no protobuf field")
            if at > stop:
                raise ValueError(f"the field at byte {start} goes beyond the end")
            if kind == _BYTES:
                yield tag >> 3, body, at


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError(f"{text[:20]!r} is no number of bytes")
    return int(text)


def _put(texts: dict[str, str], key: str, value: str) -> None:
    # Of two the last one holds, or both do: readers differ.
    if key in texts:
        raise ValueError(f"a {key} stands twice")
    texts[key] = value


def _text(data: mmap.mmap, begin: int, end: int) -> str:
    if end - begin > _TEXT_BYTES:
        raise ValueError(f"a name has more than {_TEXT_BYTES} bytes")
    return data[begin:end].decode("utf-8")


def _varint(data: mmap.mmap, at: int, stop: int, most: int) -> tuple[int, int]:
    value = 0
    for count in range(most):
        if at + count >= stop:
            break
        byte = data[at + count]
        value |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            return value, at + count + 1
    raise ValueError(f"byte {at} starts no protobuf number")
