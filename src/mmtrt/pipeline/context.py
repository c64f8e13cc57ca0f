"""What every stage is given: the cache, and whom to tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from mmtrt.artifacts import StageCache
from mmtrt.results import CheckResult

__all__ = ["Context", "Partial"]

Partial = Callable[[], list[CheckResult]]
"""Gives the results of what a check has compared so far."""


def _silent(_: object) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """`stage` is told what begins, `note` what the user should know; both go to stderr, never to stdout.

    `so_far` is told how to ask for what a check knows before it ends.
    """

    cache: StageCache = field(default_factory=StageCache.default)
    stage: Callable[[str], None] = _silent
    note: Callable[[str], None] = _silent
    so_far: Callable[[Partial], None] = _silent
