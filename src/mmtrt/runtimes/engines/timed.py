"""Times an engine by the device's events, part by part, as trtexec does.

A run is: the inputs copied to the device (H2D), the engine (compute), the outputs copied to the host (D2H), with an
event before, between and behind; each part's time is exact, and the latency is that between the first event and the
last one. As with trtexec a CUDA graph holds the engine alone, and the copies are enqueued beside it: so the parts stay
apart. Without transfers the inputs are copied once, before, and only the engine lies between the events.

`burst` has two sets of memory, and enqueues a query while the one before it runs; the copies of one may run beside
the engine of the other, two engines never run at once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np

from mmtrt.runtimes.cuda import Cuda
from mmtrt.runtimes.engines.lane import Lane
from mmtrt.runtimes.engines.layouts import Layout
from mmtrt.runtimes.engines.loaded import LoadedEngine
from mmtrt.runtimes.engines.plan import Shapes
from mmtrt.runtimes.given import Given, look
from mmtrt.runtimes.timing import Timing
from mmtrt.tensors import Feeds

__all__ = ["EngineTimed", "timed_run"]


@contextmanager
def timed_run(loaded: LoadedEngine, feeds: Feeds, *, cuda_graph: bool, transfers: bool) -> Iterator[EngineTimed]:
    """Put the inputs in place in lanes of their own, run them once, and give what times them."""
    given = Given()
    look(given, feeds, None)
    shapes = loaded.checked(given)
    with ExitStack() as stack:
        sets = []
        for _ in range(2):
            lane = stack.enter_context(loaded.own_lane())
            sets.append(_Set(lane, shapes, given, stack, cuda_graph=cuda_graph))
        yield EngineTimed(lane.cuda, (sets[0], sets[1]), transfers=transfers)


class _Set:
    """A lane with the inputs in place, and its events: before H2D, before and after compute, after D2H."""

    def __init__(self, lane: Lane, shapes: Shapes, given: Given, stack: ExitStack, *, cuda_graph: bool) -> None:
        self.lane = lane
        self.layout: Layout = lane.layout(shapes, {})
        for name, view in self.layout.fed.items():
            np.copyto(view, given.host[name])
        self.events = []
        for _ in range(4):
            self.events.append(lane.cuda.create_event())
            stack.callback(lane.cuda.destroy_event, self.events[-1])
        lane.enqueue(self.layout, lane.context)
        lane.cuda.sync(lane.stream)
        self.graph = 0
        if cuda_graph and lane.context.capturable(lane.stream):
            self.graph = lane.record(self._enqueue)
        if self.graph:
            stack.callback(lane.cuda.destroy_graph, self.graph)
        # After whatever went wrong, what still runs ends before anything is given back.
        stack.callback(lane.settle)

    def _enqueue(self) -> None:
        self.lane.context.enqueue(self.lane.stream)

    def start(self, *, transfers: bool, after: int = 0) -> None:
        """Start one run; its compute waits for event `after`."""
        lane, cuda, stream = self.lane, self.lane.cuda, self.lane.stream
        first, begun, ended, last = self.events
        if transfers:
            cuda.record(first, stream)
            lane.upload(self.layout)
        if after:
            cuda.wait(stream, after)
        cuda.record(begun, stream)
        if self.graph:
            cuda.launch(self.graph, stream)
        else:
            self._enqueue()
        cuda.record(ended, stream)
        if transfers:
            lane.download(self.layout)
            cuda.record(last, stream)

    @property
    def end(self) -> int:
        """The event after the engine."""
        return self.events[2]


class EngineTimed:
    """Fulfils `mmtrt.runtimes.timing.TimedRun`."""

    clock = "cuda_event"

    def __init__(self, cuda: Cuda, sets: tuple[_Set, _Set], *, transfers: bool) -> None:
        self._cuda = cuda
        self._sets = sets
        self._transfers = transfers

    @property
    def cuda_graph(self) -> bool:
        """Whether the engine is replayed from a graph; False where one was asked for and refused."""
        return all(each.graph for each in self._sets)

    @property
    def transfers(self) -> bool:
        """Whether the copies are in a run."""
        return self._transfers

    def once(self) -> Timing:
        """Run once, and wait for it."""
        each = self._sets[0]
        start = time.perf_counter_ns()
        each.start(transfers=self._transfers)
        enqueued = time.perf_counter_ns()
        self._cuda.sync(each.lane.stream)
        done = time.perf_counter_ns()
        first, begun, ended, last = each.events
        compute = self._cuda.elapsed_ms(begun, ended)
        return Timing(
            latency_ms=self._cuda.elapsed_ms(first, last) if self._transfers else compute,
            host_ms=(done - start) / 1e6,
            enqueue_ms=(enqueued - start) / 1e6,
            h2d_ms=self._cuda.elapsed_ms(first, begun) if self._transfers else None,
            compute_ms=compute,
            d2h_ms=self._cuda.elapsed_ms(ended, last) if self._transfers else None,
        )

    def burst(self, queries: int) -> float:
        """Run back to back with one query enqueued ahead; return the host's time for all, in s."""
        start = time.perf_counter_ns()
        for query in range(queries):
            each, other = self._sets[query % 2], self._sets[1 - query % 2]
            if query >= 2:
                # This set's memory is free once its query before has ended.
                self._cuda.sync(each.lane.stream)
            each.start(transfers=self._transfers, after=other.end if query else 0)
        for each in self._sets:
            self._cuda.sync(each.lane.stream)
        return (time.perf_counter_ns() - start) / 1e9
