"""What a GPU's sensors tell at one moment, and the contract of those that can be asked: NVML, tegrastats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

__all__ = ["Clocks", "Reading", "Sensor", "SensorError", "Source"]

Source = Literal["nvml", "tegrastats"]


class SensorError(Exception):
    """There is nothing to read here, or no more; the text says why. A benchmark goes on without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One look at the sensors. None is what they don't tell; `at_s` is by `time.perf_counter`.

    `energy_j` is a counter that only grows, from any start; `rails_w` the power of each supply rail by its name.
    """

    at_s: float
    sm_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    energy_j: float | None = None
    memory_used_mib: float | None = None
    throttle: frozenset[str] = frozenset()
    rails_w: Mapping[str, float] = field(default_factory=dict)
    failed: tuple[str, ...] = ()
    """Which of these could be read before and not now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """Whether the clocks are held; None where nothing tells. `note` says who holds them, or how it is known."""

    locked: bool | None = None
    note: str = ""


class Sensor(Protocol):
    """Sensors of one device. One thread reads, any may close."""

    @property
    def source(self) -> Source:
        """Who tells."""
        ...

    @property
    def device(self) -> str:
        """Whose sensors they are: `NVIDIA H200`."""
        ...

    @property
    def power_of(self) -> str:
        """What `power_w` is the power of, and since when: `the board, averaged by the driver`; empty: there is none."""
        ...

    @property
    def pause_s(self) -> float:
        """How long to wait between two readings; 0 where `read` itself waits for the next."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the numbers must know."""
        ...

    def clocks(self) -> Clocks:
        """Tell whether clocks are locked."""
        ...

    def read(self) -> Reading | None:
        """Return the next reading; None when there will be no more, as after `close`. SensorError where all failed."""
        ...

    def close(self) -> None:
        """End; a `read` that waits in another thread returns."""
        ...
