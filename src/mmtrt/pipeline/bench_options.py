"""What a benchmark's options mean, beyond what Typer checks."""

from __future__ import annotations

import math
from pathlib import Path

from mmtrt.bench.gate import parse_percent
from mmtrt.errors import UsageError

__all__ = ["duration_of", "host_clock_of", "limit_of"]


def duration_of(option: str, value: float) -> float:
    """Return a duration that ends; UsageError where it is infinite or no number."""
    if not math.isfinite(value):
        raise UsageError(f"{option} is {value}", fix="Give a number.")
    return value


def host_clock_of(name: str) -> bool:
    """Tell whether `--clock` asks for the caller's time; UsageError where it is neither `device` nor `host`."""
    if name not in {"device", "host"}:
        raise UsageError(f"there is no clock {name!r}", fix="Known are device and host.")
    return name == "host"


def limit_of(text: str | None, baseline: Path | None) -> float:
    """Return how much slower than its baseline a row may be, a share of 1; UsageError where there is no baseline."""
    if text is not None and baseline is None:
        raise UsageError("--max-regression needs something to be slower than", fix="Name it with --baseline.")
    return parse_percent(text if text is not None else "3%")
