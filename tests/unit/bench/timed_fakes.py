"""Runners that take the times that they are told, on a clock that goes on only where they take some."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from mmtrt.runtimes.timing import Timing
from mmtrt.tensors import Array, Feeds, TensorSpec

if TYPE_CHECKING:
    from typing_extensions import Self

FEEDS = {"x": np.zeros((1, 3), np.float32)}


class Clock:
    """Time that goes on only where a runner takes some."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.spins = 0
        self.sleeps = 0

    def perf_counter_ns(self) -> int:
        return self.now_ns

    def perf_counter(self) -> float:
        return self.now_ns / 1e9

    def process_time(self) -> float:
        """No thread goes on after a run, unless `spins` says for how many looks one does."""
        self.spins -= 1
        return -self.spins * 1.0 if self.spins > 0 else 0.0

    def sleep(self, _: float) -> None:
        """Settling takes no time here."""
        self.sleeps += 1


class Fake:
    """A runner that takes the times that it is told, over and over."""

    def __init__(self, clock: Clock, *times_ms: float, log: list[Fake] | None = None) -> None:
        self.clock = clock
        self.times_ms = times_ms
        self.log = log if log is not None else []
        self.runs = "fake 1.0 CPU"
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
        self.open = False
        self.calls = 0

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        assert self.open
        assert feeds is FEEDS
        self.clock.now_ns += round(self.next_ms() * 1e6)
        return {}

    def next_ms(self) -> float:
        self.log.append(self)
        self.calls += 1
        return self.times_ms[(self.calls - 1) % len(self.times_ms)]

    def __enter__(self) -> Self:
        self.open = True
        return self

    def __exit__(self, *exc: object) -> None:
        self.open = False


class Device(Fake):
    """A runner with a clock of its own: what it says a run took, while the host waits 20 us longer."""

    def __init__(self, clock: Clock, *times_ms: float, graphs: bool = True, log: list[Fake] | None = None) -> None:
        super().__init__(clock, *times_ms, log=log)
        self.graphs = graphs
        self.runs = "TensorRT-RTX 1.7.1 on Fake GPU"
        self.bursts: list[int] = []
        self.timing = 0
        self.device_bytes = 3 << 20
        self.notes = ("it is a fake",)

    @contextmanager
    def timed(self, feeds: Feeds, *, cuda_graph: bool, transfers: bool) -> Iterator[DeviceRun]:
        assert self.open
        assert feeds is not None
        self.timing += 1
        try:
            yield DeviceRun(self, cuda_graph=cuda_graph and self.graphs, transfers=transfers)
        finally:
            self.timing -= 1


class DeviceRun:
    clock = "cuda_event"

    def __init__(self, device: Device, *, cuda_graph: bool, transfers: bool) -> None:
        self.device = device
        self.cuda_graph = cuda_graph
        self.transfers = transfers

    def once(self) -> Timing:
        took = self.device.next_ms()
        self.device.clock.now_ns += round((took + 0.02) * 1e6)
        copies = took / 10 if self.transfers else None
        return Timing(
            latency_ms=took,
            host_ms=took + 0.02,
            enqueue_ms=0.01,
            h2d_ms=copies,
            compute_ms=took - 2 * (copies or 0),
            d2h_ms=copies,
        )

    def burst(self, queries: int) -> float:
        """The host's 20 us are hidden behind the run before."""
        self.device.bursts.append(queries)
        seconds = sum(self.device.next_ms() for _ in range(queries)) / 1e3
        self.device.clock.now_ns += round(seconds * 1e9)
        return seconds
