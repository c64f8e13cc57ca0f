"""A run whose shapes and memory stay as they are, for loops in which nothing but the engine should take time."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from mmtrt.errors import InputError
from mmtrt.runtimes.engines.device import Device
from mmtrt.runtimes.engines.lane import Lane
from mmtrt.runtimes.engines.plan import Shapes
from mmtrt.tensors import Array

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["EngineBound"]

_ending = sys.is_finalizing


class EngineBound:
    """`inputs` are to be filled in place, `run` runs, `outputs` are read in place: all of it pinned memory.

    One run at a time; a second thread waits. The arrays stay readable after `close`.
    """

    def __init__(
        self, lane: Lane, device: Device, shapes: Shapes, feeds: Mapping[str, Array], owner: object = None
    ) -> None:
        # The session is not dropped as long as this one may run.
        self._owner = owner
        self._lane = lane
        self._cuda = lane.cuda
        self._device = device
        self._turn = threading.Lock()
        self._over = ""
        try:
            self._layout = lane.layout(shapes, {})
            pinned = lane.hand_out(device)
            inputs, outputs = (
                {name: pinned[name].view(str(view.dtype), view.shape) for name, view in views.items()}
                for views in (self._layout.fed, self._layout.read)
            )
            for name, array in inputs.items():
                # An index that nobody chose could be out of its table.
                array[...] = feeds.get(name, 0)
            # The second run records the graph.
            for _ in range(2):
                lane.start(self._layout)
                self._cuda.sync(lane.stream)
        except BaseException:
            self._over = "it was never ready"
            lane.close()
            raise
        self._graph = self._layout.graph
        self._stream = lane.stream
        self.inputs: Mapping[str, Array] = MappingProxyType(inputs)
        self.outputs: Mapping[str, Array] = MappingProxyType(outputs)

    @property
    def cuda_graph(self) -> bool:
        """Whether a run is one launch of a graph."""
        return self._graph != 0

    def run(self) -> Mapping[str, Array]:
        """Run on what `inputs` hold, wait, and return `outputs`, which the next run overwrites."""
        self._device.check_process()
        with self._turn:
            if self._over:
                raise InputError(self._over, fix="Bind anew: session.bind(...).")
            try:
                self._cuda.activate()
                if self._graph:
                    self._cuda.launch(self._graph, self._stream)
                else:
                    self._lane.start(self._layout)
                self._cuda.sync(self._stream)
            except BaseException as error:
                self._end(f"the bound run is over, after an error: {error}")
                raise
        return self.outputs

    def close(self) -> None:
        """Give everything back but the arrays, which go when nobody holds them; waits for a run under way."""
        if self._device.inherited:
            return
        with self._turn:
            if not self._over:
                self._end("the bound run is closed")
        # Where it was the last to hold the session, that closes now, and asks for the turn.
        self._owner = None

    def _end(self, why: str) -> None:
        self._over = why
        self._lane.close()

    def __del__(self) -> None:
        # Whoever just lets go of it has it closed when that may be: perhaps a graph is being recorded now.
        if not self._over and not _ending():
            self._device.lend()
            self._device.take_back(self._lane.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
