"""The document, and the feeds that are made by it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mmtrt.artifacts import json_text, key_of, read_json
from mmtrt.errors import InputError
from mmtrt.preprocess.rules import Rule, TextRule
from mmtrt.tensors import Array, TensorSpec

__all__ = ["SCHEMA", "Preprocessing", "parse_preprocessing", "read_preprocessing"]

SCHEMA: Literal["mmtrt.preprocessing/1"] = "mmtrt.preprocessing/1"


class Preprocessing(BaseModel):
    """Raw things by name (`image`, `question`), and what is done to each to make the model's inputs of it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    schema_: Literal["mmtrt.preprocessing/1"] = Field(default=SCHEMA, alias="schema")
    raw: Annotated[dict[str, Rule], Field(min_length=1, max_length=256)]

    @model_validator(mode="after")
    def _once(self) -> Preprocessing:
        names = [spec.name for spec in self.inputs]
        if len(set(names)) < len(names):
            raise ValueError("two rules make the same input")
        return self

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What it makes, without the batch axis, in the rules' order."""
        return tuple(spec for rule in self.raw.values() for spec in rule.inputs)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return self.model_dump(mode="json", by_alias=True)

    def to_bytes(self) -> bytes:
        """Return the file's bytes, the same for the same content."""
        return (json_text(self.to_json()) + "\n").encode()

    @property
    def digest(self) -> str:
        """SHA-256 of its content, in hex, whatever the order of its keys."""
        return key_of(self.to_json())

    def feeds(self, raw: Mapping[str, Any] | None = None, /, **named: Any) -> dict[str, Array]:
        """Make the model's inputs, with the batch axis: `feeds(image=picture, question="what colour is it?")`.

        A list makes a batch: each that is given as one has the same number of things, and what is not is a batch of
        one. Texts of a batch are filled up to the longest. None is a thing that is absent. InputError names what is
        unknown, missing or of the wrong kind.
        """
        given = {**(raw or {}), **named}
        for name in given:
            if name not in self.raw:
                near = get_close_matches(name, self.raw, n=1)
                raise InputError(
                    f"the model takes no {name!r}",
                    fix=f"Did you mean {near[0]!r}?" if near else f"It takes {', '.join(self.raw)}.",
                )
        columns = {name: _column(given.get(name)) for name in self.raw}
        batch = _batch({name: column for name, column in columns.items() if given.get(name) is not None})
        feeds: dict[str, Array] = {}
        for name, rule in self.raw.items():
            column = columns[name] if given.get(name) is not None else [None] * batch
            feeds |= _stacked(rule, name, [_made(rule, name, value) for value in column])
        return feeds

    def check(self, inputs: Sequence[TensorSpec], what: str) -> None:
        """Hold it against the inputs of a model, batch axis first; InputError names the first that does not fit."""
        made = {spec.name: spec for spec in self.inputs}
        for spec in inputs:
            own = made.pop(spec.name, None)
            if own is None:
                raise InputError(
                    f"the preprocessing of {what} makes no input {spec.name!r}",
                    fix="Add a rule for it: kind 'image', 'text' or 'tensor'.",
                )
            fixed = zip(own.shape, spec.shape[1:], strict=False)
            sizes = all(a == b for a, b in fixed if isinstance(a, int) and isinstance(b, int))
            if own.dtype != spec.dtype or len(own.shape) != len(spec.shape) - 1 or not sizes:
                raise InputError(
                    f"the preprocessing of {what} makes {own}, without the batch axis, and the model takes {spec}",
                    fix="Make them agree.",
                )
        if made:
            raise InputError(f"the preprocessing of {what} makes {min(made)!r}, which is no input of the model")


def read_preprocessing(path: Path) -> Preprocessing:
    """Read a document's file; InputError names the file and the first thing that is wrong."""
    return parse_preprocessing(read_json(path), str(path))


def parse_preprocessing(data: object, what: str) -> Preprocessing:
    """Read a document from plain JSON data; InputError names `what` and the first thing that is wrong."""
    if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
        raise InputError(f"the preprocessing of {what} has another schema", fix=_MEND)
    try:
        return Preprocessing.model_validate_json(json.dumps(data))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"the preprocessing of {what}: {where}: {first['msg']}"[:500], fix=_MEND) from error
    except (TypeError, ValueError) as error:
        raise InputError(f"the preprocessing of {what} is no JSON: {error}", fix=_MEND) from error


_MEND = f"It is a document of schema {SCHEMA!r}; docs/asking.md has an example."


def _column(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _batch(columns: Mapping[str, Sequence[Any]]) -> int:
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1 or 0 in sizes.values():
        told = ", ".join(f"{size} of {name!r}" for name, size in sizes.items())
        raise InputError(f"a batch has as many of each: {told}", fix="Repeat what goes with several.")
    return next(iter(sizes.values()), 1)


def _made(rule: Rule, name: str, value: Any) -> dict[str, Array]:
    if value is not None:
        return rule.make(name, value)
    if rule.absent == "refused":
        raise InputError(f"{name!r} is missing", fix=f"Give it: feeds({name}=...).")
    return rule.blank()


def _stacked(rule: Rule, name: str, rows: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    if isinstance(rule, TextRule):
        longest = max(len(row[rule.ids]) for row in rows)
        rows = [rule.longer(row, longest) for row in rows]
    for row in rows:
        for key, array in row.items():
            if array.shape != rows[0][key].shape:
                raise InputError(f"{name!r} has two shapes within one batch: {rows[0][key].shape} and {array.shape}")
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}
