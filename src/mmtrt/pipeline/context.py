"""What every stage is given: the cache, and whom to tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from mmtrt.artifacts import StageCache

__all__ = ["Context"]


def _silent(_: str) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """`stage` is told what begins, `note` what the user should know; both go to stderr, never to stdout."""

    cache: StageCache = field(default_factory=StageCache.default)
    stage: Callable[[str], None] = _silent
    note: Callable[[str], None] = _silent
