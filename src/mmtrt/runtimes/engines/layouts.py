"""How runs of a lane lie in memory, and the graphs that replay some of them; the least lately used ones go first."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import ExitStack
from dataclasses import dataclass, field

from mmtrt.runtimes.cuda import Cuda
from mmtrt.runtimes.engines.plan import Context, Shapes
from mmtrt.tensors import Array

__all__ = ["Key", "Layout", "Layouts"]

Key = tuple[Shapes, tuple[int, ...]]
"""The inputs' shapes, and the address of each tensor that lies in memory of the caller's; 0 where it does not."""


@dataclass(slots=True, kw_only=True)
class Layout:
    """One way to run: where each tensor lies.

    `fed` and `read` are views on pinned memory, of the inputs that come from the host and the outputs that go there;
    `uploads` and `downloads` are their bytes. `made` are the shapes of the outputs. `graph` is 0 where there is none;
    it belongs to `context`, which nothing else uses: to change a context spoils the graphs that were made of it.
    """

    shapes: Shapes
    made: Shapes
    addresses: dict[str, int]
    fed: dict[str, Array]
    read: dict[str, Array]
    uploads: dict[str, int]
    downloads: dict[str, int]
    sights: int = 0
    graph: int = 0
    context: Context | None = field(default=None)


_WITHOUT_GRAPH = 4


class Layouts:
    """At most `limit` layouts with a graph, and four times as many without; what leaves gives its graph back.

    A layout loses its graph to one that has earned one, never to one that merely came by: where one shape more goes
    round than there is room for, all but one or two are still replayed. Graphs must have ended before they are lost.
    """

    def __init__(self, cuda: Cuda, limit: int) -> None:
        self._cuda = cuda
        self._limit = limit
        self._kept: OrderedDict[Key, Layout] = OrderedDict()
        self._pushed_out = 0

    @property
    def patience(self) -> int:
        """How often a layout is to be used before a graph is worth recording.

        Twice; but twice as often each time that as many graphs as there is room for were pushed out by others: where
        shapes change at random among too many, recording would never end.
        """
        return int(2 << min(self._pushed_out // self._limit, 8))

    def find(self, key: Key) -> Layout | None:
        """Return the layout of a key, which counts as used now."""
        layout = self._kept.get(key)
        if layout is not None:
            self._kept.move_to_end(key)
        return layout

    def add(self, key: Key, layout: Layout) -> None:
        """Keep a layout; the least lately used one may go."""
        self._kept[key] = layout
        bare = [other for other, kept in self._kept.items() if not kept.graph]
        if len(bare) > _WITHOUT_GRAPH * self._limit:
            del self._kept[bare[0]]

    def trim(self) -> None:
        """Take the graph of the least lately used layouts, where more have one than there is room for."""
        recorded = [layout for layout in self._kept.values() if layout.graph]
        for layout in recorded[: max(len(recorded) - self._limit, 0)]:
            self._pushed_out += 1
            layout.sights = 0
            self._give_back(layout)

    def clear(self) -> None:
        """Let all go: before memory that they name is freed."""
        with ExitStack() as stack:
            while self._kept:
                stack.callback(self._give_back, self._kept.popitem()[1])

    def _give_back(self, layout: Layout) -> None:
        graph, layout.graph = layout.graph, 0
        context, layout.context = layout.context, None
        try:
            if graph:
                self._cuda.destroy_graph(graph)
        finally:
            if context is not None:
                context.close()
