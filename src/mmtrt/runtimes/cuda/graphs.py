"""CUDA graphs by the driver's own functions, for streams of any package.

pycuda knows no graphs; and cuda-core's builder, once a capture broke, ends whatever its stream captures next, while a
capture that breaks is nothing unusual here: engines that can't be captured run without a graph.
"""

from __future__ import annotations

from mmtrt.runtimes.cuda.library import Library

__all__ = ["Graphs"]

_THREAD_LOCAL = 1


class Graphs:
    """Captures, launches and destroys graphs; what fails raises DriverError.

    `launch(graph, stream)` is the driver's own function, which returns the error's code, 0 for none: it is called
    for each inference.
    """

    def __init__(self, library: Library) -> None:
        self._library = library
        self.launch = library.function("cuGraphLaunch")

    def begin(self, stream: int) -> None:
        """Begin to capture a stream, in the mode that leaves other threads alone."""
        self._library.call("cuStreamBeginCapture_v2", stream, _THREAD_LOCAL)

    def end(self, stream: int) -> int:
        """End the capture, also a broken one, and return the graph, instantiated."""
        graph = self._library.handle("cuStreamEndCapture", stream, None)
        try:
            return self._library.handle("cuGraphInstantiateWithFlags", None, graph, 0)
        finally:
            # What was instantiated does not need it any more.
            self._library.function("cuGraphDestroy")(graph)

    def destroy(self, graph: int) -> None:
        """Destroy a graph."""
        self._library.call("cuGraphExecDestroy", graph)
