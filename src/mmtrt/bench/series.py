"""Times of many runs, by part."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence

from mmtrt.runtimes.timing import Timing

__all__ = ["Series"]

_ALWAYS = ("latency_ms", "host_ms")
_PARTS = ("enqueue_ms", "h2d_ms", "compute_ms", "d2h_ms")


class Series:
    """Times in ms in the order of the runs, eight bytes each: ten minutes of a fast model are millions of runs."""

    def __init__(self) -> None:
        self._times = {name: array("d") for name in (*_ALWAYS, *_PARTS)}

    def __len__(self) -> int:
        return len(self.latency_ms)

    def add(self, timing: Timing) -> None:
        """Add one run; a part that it lacks is missing from then on."""
        for name in tuple(self._times):
            value = getattr(timing, name)
            if value is None:
                del self._times[name]
            else:
                self._times[name].append(value)

    @property
    def latency_ms(self) -> array[float]:
        """Each run's time by the clock of whatever ran."""
        return self._times["latency_ms"]

    @property
    def host_ms(self) -> array[float]:
        """Each run's time by the host's clock."""
        return self._times["host_ms"]

    @property
    def parts(self) -> Mapping[str, Sequence[float]]:
        """The parts that were measured in every run."""
        return {name: times for name, times in self._times.items() if name in _PARTS and len(times) == len(self)}

    @property
    def host_s(self) -> float:
        """The host's time of all runs, in s."""
        return math.fsum(self.host_ms) / 1e3
