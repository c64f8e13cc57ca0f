"""What the CUDA in memory has on its streams."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Step:
    """What the device does: `touches` are the pointers that must stay until it is done."""

    work: Callable[[], None]
    touches: tuple[int, ...] = ()
    ms: float = 0.0
    waits_for: tuple[int, int] | None = None
    graph: int = 0


@dataclass
class Capture:
    steps: list[Step] = field(default_factory=list)
    streams: set[int] = field(default_factory=set)
    unjoined: set[int] = field(default_factory=set)
    broken: str = ""


@dataclass
class Event:
    """`recorded` counts the calls of `record`, `done` those that the device has come past."""

    timing: bool
    recorded: int = 0
    done: int = 0
    at_ms: float = 0.0
    stream: int = 0
    capture: Capture | None = None
