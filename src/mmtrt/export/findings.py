"""What an export found in a model that its owner should know, each with what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Finding", "Tell"]

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One finding: `kind` for programs, `where` names an input, an output, a module or a node.

    An "error" stands in an engine's way, a "warning" changes what the engine takes or gives, a "note" is right for
    some models.
    """

    kind: str
    what: str
    where: str
    fix: str
    severity: Severity = "warning"

    def __str__(self) -> str:
        return f"{self.what}. {self.fix}"

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Finding:
        """Read what `dataclasses.asdict` gave."""
        return cls(**data)


Tell = Callable[[Finding], None]
"""Takes one finding: `list.append`, say."""
