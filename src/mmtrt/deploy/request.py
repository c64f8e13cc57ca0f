"""What `mmtrt deploy` is asked, and whom it tells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmtrt.bundle.opening import Trust

__all__ = ["DeployRequest", "Notes"]


def _silent(_: str) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployRequest:
    """One deploy. `trust` verifies the signature; `target` is None for the one that fits; `plugins` may be needed.

    `until` is how far it goes: `build` switches nothing. `keep` is how many versions stay beside the current one,
    `max_p50_ms` what the latency's median may be, `duration_s` for how long it is measured. `stage` is told what
    begins, `note` what the user should know.
    """

    bundle: Path
    directory: Path
    target: str | None = None
    until: Literal["build", "switch"] = "switch"
    trust: Trust | None = None
    plugins: tuple[str, ...] = ()
    older: Literal["refused", "allowed"] = "refused"
    keep: int = 2
    max_p50_ms: float | None = None
    duration_s: float = 1.0
    stage: Callable[[str], None] = _silent
    note: Callable[[str], None] = _silent


class Notes:
    """What was noted, in its order; each is told at once."""

    def __init__(self, told: Callable[[str], None]) -> None:
        self._told = told
        self._kept: list[str] = []

    def __call__(self, text: str) -> None:
        """Note something, once."""
        if text not in self._kept:
            self._kept.append(text)
            self._told(text)

    def all(self) -> tuple[str, ...]:
        """Return all of them."""
        return tuple(self._kept)
