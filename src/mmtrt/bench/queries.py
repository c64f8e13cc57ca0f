"""Queries: what a scenario sends at once, timed; several runs of a model where its batch is smaller than a query."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from mmtrt.runtimes import Runner
from mmtrt.runtimes.timing import HostTimed, Timeable, TimedRun, Timing
from mmtrt.tensors import Feeds

__all__ = ["Shape", "opened"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a model is fed at one point of a sweep: `samples` of a batch a run, and `runs` of them a query.

    `sizes` are those that the sweep names.
    """

    feeds: Feeds
    sizes: Mapping[str, int] = field(default_factory=dict)
    samples: int = 1
    runs: int = 1


class _Repeated:
    """A query of several runs, sent one after another and waited for together: by the host's clock."""

    clock = "host"

    def __init__(self, run: TimedRun, runs: int) -> None:
        self._run = run
        self._runs = runs
        self.cuda_graph = run.cuda_graph
        self.transfers = run.transfers

    def once(self) -> Timing:
        """Send all, wait for all."""
        took = self._run.burst(self._runs) * 1e3
        return Timing(latency_ms=took, host_ms=took)

    def burst(self, queries: int) -> float:
        """Send all runs of all queries."""
        return self._run.burst(self._runs * queries)


@contextmanager
def opened(runner: Runner, shape: Shape, *, cuda_graph: bool, transfers: bool) -> Iterator[TimedRun]:
    """Give what runs one query of a runner that is entered: by its device's clock where it has one."""
    if isinstance(runner, Timeable):
        with runner.timed(shape.feeds, cuda_graph=cuda_graph, transfers=transfers) as run:
            yield run if shape.runs == 1 else _Repeated(run, shape.runs)
        return
    plain: TimedRun = HostTimed(runner, shape.feeds)
    yield plain if shape.runs == 1 else _Repeated(plain, shape.runs)
