"""TensorRT's names and signatures by release, read from the table that `make_table.py` makes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Releases", "Table", "accepts"]

Releases = frozenset[str]
"""Labels of releases: `10.3`, `RTX 1.7`."""


@dataclass(frozen=True)
class Table:
    """`versions` gives each release's full version; `kinds` each name's signatures or kind in each that has it."""

    versions: dict[str, str]
    kinds: dict[str, dict[str, str]]

    @classmethod
    def read(cls) -> Table:
        path = Path(__file__).with_name("tensorrt_names.json")
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        every = frozenset(data["versions"])
        kinds: dict[str, dict[str, str]] = {}
        for name, told in data["names"].items():
            kinds[name] = {label: kind for kind, labels in told.items() for label in _labels(labels, every)}
        return cls(versions=data["versions"], kinds=kinds)

    @property
    def releases(self) -> Releases:
        return frozenset(self.versions)

    def find(self, owner: str, name: str) -> dict[str, str]:
        """Return `{release: kind}` of a name of a class, inherited ones too; of the bindings where owner is ''."""
        own = dict(self.kinds.get(f"{owner}.{name}" if owner else name, {}))
        for label, kind in self.kinds.get(owner, {}).items():
            if label not in own and (base := re.fullmatch(r"class\((\S+)\)", kind)):
                own.update({where: told for where, told in self.find(base[1], name).items() if where == label})
        return own

    def class_named(self, name: str) -> str | None:
        """Return the class that a signature means; some name the one that lies below it in C++."""
        bare = name.strip()
        return next((known for known in (bare, bare.removeprefix("I")) if self._is_class(known)), None)

    def _is_class(self, name: str) -> bool:
        return any(kind.startswith("class") for kind in self.kinds.get(name, {}).values())


def _labels(labels: str | list[str], every: Releases) -> Iterable[str]:
    return every if isinstance(labels, str) else labels


def accepts(kind: str, positional: int, keywords: Iterable[str]) -> bool:
    """Say whether one of the signatures takes so many positional arguments and these keywords."""
    signatures = [line for line in kind.splitlines() if line.startswith("(")]
    return not signatures or any(_takes(signature, positional, list(keywords)) for signature in signatures)


def _takes(signature: str, positional: int, keywords: list[str]) -> bool:
    text = signature[1 : signature.rindex(") ->")]
    # Commas inside brackets separate no parameters.
    parameters = [part.strip() for part in re.split(r",(?![^\[(]*[\])])", text) if part.strip()]
    if any(parameter.startswith("*") for parameter in parameters):
        return True
    names = [parameter.partition(":")[0] for parameter in parameters]
    given = {*names[:positional], *keywords}
    needed = {name for name, parameter in zip(names, parameters, strict=True) if " = " not in parameter}
    return positional + len(keywords) == len(given) and len(given) <= len(names) and needed <= given <= set(names)
