"""Protocol buffers' text format, as far as a model's configuration needs it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Union

__all__ = ["Message", "Value", "Word", "text"]


@dataclass(frozen=True, slots=True)
class Word:
    """What stands without quotes: an enumerator."""

    name: str


@dataclass(frozen=True, slots=True)
class Message:
    """Fields in the order in which they are written; one that comes again is repeated."""

    fields: tuple[tuple[str, Value], ...] = ()


Value = Union[int, str, Word, Sequence[int], Message]  # noqa: UP007 -- read at run time on 3.10


def text(message: Message) -> str:
    """Return the message, two spaces a level, a field a line; an empty list of numbers is left out."""
    return "".join(f"{line}\n" for line in _lines(message))


def _lines(message: Message) -> Iterator[str]:
    for name, value in message.fields:
        if isinstance(value, Message):
            yield f"{name} {{"
            yield from (f"  {line}" for line in _lines(value))
            yield "}"
        elif isinstance(value, (int, str, Word)):
            yield f"{name}: {_scalar(value)}"
        elif value:
            yield f"{name}: [{', '.join(map(str, value))}]"


def _scalar(value: int | str | Word) -> str:
    if isinstance(value, bool):  # one is an integer too
        return "true" if value else "false"
    if isinstance(value, Word):
        return value.name
    return str(value) if isinstance(value, int) else f'"{_escaped(value)}"'


def _escaped(value: str) -> str:
    """Write printable ASCII as it is, each other byte of the UTF-8 as three octal digits, as protobuf itself does."""
    return "".join(
        chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else f"\\{byte:03o}" for byte in value.encode("utf-8")
    )
