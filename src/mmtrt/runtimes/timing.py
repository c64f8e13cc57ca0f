"""What one timed inference tells, and what can be timed: the border between runners and the benchmark.

A runner that knows its device's clock gives a `TimedRun` by its method `timed`; all others are timed from outside.
The parts are those of trtexec: latency = H2D + GPU compute + D2H, each between two events on the device.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from mmtrt.runtimes import Runner
from mmtrt.tensors import Feeds

__all__ = ["HostTimed", "Timeable", "TimedRun", "Timing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One inference, ms. `latency_ms` is by the device's events, or the host's clock where there is no device.

    `host_ms` is by the host's clock, from the call until the results can be read; `enqueue_ms` until the call had put
    all work on the device. A part is None where it was not measured.
    """

    latency_ms: float
    host_ms: float
    enqueue_ms: float | None = None
    h2d_ms: float | None = None
    compute_ms: float | None = None
    d2h_ms: float | None = None


class TimedRun(Protocol):
    """A runner with its inputs in place, to be run again and again."""

    @property
    def clock(self) -> str:
        """`cuda_event` or `host`: whose clock `latency_ms` is by."""
        ...

    @property
    def cuda_graph(self) -> bool:
        """Whether a run replays a CUDA graph."""
        ...

    @property
    def transfers(self) -> bool:
        """Whether a run holds the copies of inputs and outputs between host and device."""
        ...

    def once(self) -> Timing:
        """Run once, and wait for it."""
        ...

    def burst(self, queries: int) -> float:
        """Run back to back, the next query enqueued while the one before runs; return the host's time for all, in s."""
        ...


@runtime_checkable
class Timeable(Protocol):
    """A runner, entered, that knows its device's clock."""

    def timed(self, feeds: Feeds, *, cuda_graph: bool, transfers: bool) -> AbstractContextManager[TimedRun]:
        """Put the inputs in place and give what runs them; `cuda_graph` asks for one, and the run tells what it has."""
        ...


class HostTimed:
    """Times any runner by the host's clock: copies are in it."""

    clock = "host"
    cuda_graph = False
    transfers = True

    def __init__(self, runner: Runner, feeds: Feeds) -> None:
        self._runner = runner
        self._feeds = feeds

    def once(self) -> Timing:
        """Run once."""
        start = time.perf_counter_ns()
        self._runner.infer(self._feeds)
        took = (time.perf_counter_ns() - start) / 1e6
        return Timing(latency_ms=took, host_ms=took)

    def burst(self, queries: int) -> float:
        """Run one after another: such a runner has no queue."""
        start = time.perf_counter_ns()
        for _ in range(queries):
            self._runner.infer(self._feeds)
        return (time.perf_counter_ns() - start) / 1e9
