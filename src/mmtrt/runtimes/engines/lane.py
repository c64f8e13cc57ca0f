"""One way through an engine for one run at a time: a stream, memory, an execution context, and graphs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack

import numpy as np

from mmtrt.errors import MachineError, MmtrtError
from mmtrt.runtimes.cuda import Cuda
from mmtrt.runtimes.cuda.buffers import Buffer
from mmtrt.runtimes.dlpack import Taken
from mmtrt.runtimes.engines.device import Device, PinnedMemory, recording
from mmtrt.runtimes.engines.layouts import Layout, Layouts
from mmtrt.runtimes.engines.plan import Context, Plan, Shapes
from mmtrt.tensors import Array, tensor_bytes

__all__ = ["Graphs", "Lane"]


class Graphs:
    """Whether graphs are made for an engine, for all of its lanes: `limit` a lane, none once one was refused."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.refused = ""

    @property
    def on(self) -> bool:
        """Whether a graph is to be made where one would serve."""
        return self.limit > 0 and not self.refused


class Lane:
    """Used by one thread at a time; after an error only `close` is left to do.

    The first run of a kind (shapes, and the caller's addresses) is enqueued call by call; at the second a graph is
    recorded, which replays copies and kernels by one launch from then on. A graph has an execution context of its
    own, over the lane's one workspace: one run at a time uses it.
    """

    def __init__(self, plan: Plan, cuda: Cuda, graphs: Graphs) -> None:
        self.plan = plan
        self.cuda = cuda
        self._graphs = graphs
        self.holder: object = None
        """Whoever has it now; None where it is free."""
        with ExitStack() as stack:
            self.stream = cuda.create_stream()
            stack.callback(cuda.destroy_stream, self.stream)
            self._workspace = cuda.alloc(plan.workspace_bytes) if plan.workspace_bytes else 0
            if self._workspace:
                stack.callback(cuda.free, self._workspace)
            self._largest = {spec.name: tensor_bytes(spec.dtype, plan.ranges[spec.name].max) for spec in plan.inputs}
            self._handed_out: dict[str, PinnedMemory] = {}
            stack.callback(self._handed_out.clear)
            self._buffers = {spec.name: Buffer(cuda) for spec in (*plan.inputs, *plan.outputs)}
            for buffer in self._buffers.values():
                stack.callback(buffer.free)
            self.context = plan.context(self._workspace)
            stack.callback(self.context.close)
            # What was run once is remembered too, so that its second time is known.
            self._layouts = Layouts(cuda, graphs.limit or 8)
            stack.callback(self._layouts.clear)
            stack.callback(self.settle)
            self._stack = stack.pop_all()

    @property
    def device_bytes(self) -> int:
        """The device's memory of workspace and buffers; what TensorRT takes beside them is not in it."""
        buffers = sum(buffer.capacity for buffer in self._buffers.values())
        return buffers + (self.plan.workspace_bytes if self._workspace else 0)

    def close(self) -> None:
        """Give everything back, whatever of it fails, from any thread."""
        self._workspace = 0
        with self._stack:
            self.cuda.activate()

    def settle(self) -> None:
        """Wait for what may still be under way; its errors were told already."""
        with contextlib.suppress(MachineError):
            self.cuda.sync(self.stream)

    def hand_out(self, device: Device) -> dict[str, PinnedMemory]:
        """Return the pinned memory of each tensor, which then outlives the lane for as long as somebody holds it."""
        for name, buffer in self._buffers.items():
            self._handed_out[name] = PinnedMemory(device, buffer.lend_host())
        return dict(self._handed_out)

    def fetch(self, taken: Taken) -> Array:
        """Return a copy of a tensor on the GPU that has gaps."""
        span, before = taken.span()
        host = self.cuda.alloc_host(span)
        try:
            self.cuda.d2h(host, taken.pointer - before, self.stream)
            self.cuda.sync(self.stream)
            return np.ndarray(taken.shape, taken.dtype, host.data, before, taken.strides).copy()
        finally:
            self.settle()
            self.cuda.free_host(host)

    # ----------------------------------------------------------------------------------------- layouts

    def outputs_of(self, shapes: Shapes) -> Shapes:
        """Return the shapes of the outputs for shapes of the inputs that are within the profile."""
        found = self._layouts.find((shapes, self._nowhere))
        return found.made if found is not None else self.context.set_shapes(shapes)

    @property
    def _nowhere(self) -> tuple[int, ...]:
        return (0,) * len(self._buffers)

    def layout(self, shapes: Shapes, elsewhere: Mapping[str, int]) -> Layout:
        """Return how such a run lies in memory; `elsewhere` are addresses of tensors in memory of the caller's."""
        key = (shapes, tuple(elsewhere.get(name, 0) for name in self._buffers) if elsewhere else self._nowhere)
        layout = self._layouts.find(key)
        if layout is None:
            layout = self._lay_out(shapes, elsewhere)
            self._layouts.add(key, layout)
        return layout

    def _lay_out(self, shapes: Shapes, elsewhere: Mapping[str, int]) -> Layout:
        made = self.context.set_shapes(shapes)
        rows = [
            *((spec, shape, True) for spec, shape in zip(self.plan.inputs, shapes, strict=True)),
            *((spec, shape, False) for spec, shape in zip(self.plan.outputs, made, strict=True)),
        ]
        here = [row for row in rows if row[0].name not in elsewhere]
        sizes = {spec.name: tensor_bytes(spec.dtype, shape) for spec, shape, _ in here}
        self._make_room(sizes)
        views = {spec.name: self._buffers[spec.name].view(spec.dtype, shape) for spec, shape, _ in here}
        fed = {spec.name for spec, _, is_input in here if is_input}
        return Layout(
            shapes=shapes,
            made=made,
            addresses={spec.name: elsewhere.get(spec.name) or self._buffers[spec.name].pointer for spec, *_ in rows},
            fed={name: view for name, view in views.items() if name in fed},
            read={name: view for name, view in views.items() if name not in fed},
            uploads={name: size for name, size in sizes.items() if name in fed},
            downloads={name: size for name, size in sizes.items() if name not in fed},
        )

    def _make_room(self, sizes: Mapping[str, int]) -> None:
        if any(nbytes > self._buffers[name].capacity for name, nbytes in sizes.items()):
            # Views and graphs name the memory that is about to move.
            self._layouts.clear()
        for name, nbytes in sizes.items():
            buffer = self._buffers[name]
            if nbytes > buffer.capacity > 0:
                # It moves seldom where shapes grow bit by bit.
                buffer.resize(max(nbytes, min(2 * buffer.capacity, self._largest.get(name, 0))))
            buffer.resize(nbytes)

    # ----------------------------------------------------------------------------------------- running

    def run(self, layout: Layout, feeds: Mapping[str, Array]) -> None:
        """Run once and wait: inputs from `feeds`, outputs in `layout.read` until the lane is used again.

        MeasurementError where TensorRT refuses, MachineError where CUDA fails.
        """
        for name, view in layout.fed.items():
            np.copyto(view, feeds[name])
        self.start(layout)
        self.cuda.sync(self.stream)

    def start(self, layout: Layout) -> None:
        """Start what `run` waits for."""
        if layout.graph:
            self.cuda.launch(layout.graph, self.stream)
            return
        layout.sights += 1
        wanted = self._graphs.on and layout.sights >= self._layouts.patience
        context = self._own_context() if wanted else None
        if context is None:
            self.enqueue(layout, self.context)
        else:
            self._run_and_record(layout, context)

    def _own_context(self) -> Context | None:
        """Return a context for a graph; None where there is no room for one: then no more graphs are made."""
        try:
            return self.plan.context(self._workspace)
        except MmtrtError as error:
            self._graphs.refused = error.message
            return None

    def enqueue(self, layout: Layout, context: Context) -> None:
        """Start copies and kernels, call by call."""
        context.set_shapes(layout.shapes)
        context.place(layout.addresses)
        self.upload(layout)
        context.enqueue(self.stream)
        self.download(layout)

    def upload(self, layout: Layout) -> None:
        """Start to copy the inputs to the device."""
        for name, nbytes in layout.uploads.items():
            self._buffers[name].resize(nbytes)
            self._buffers[name].upload(self.stream)

    def download(self, layout: Layout) -> None:
        """Start to copy the outputs to the host."""
        for name, nbytes in layout.downloads.items():
            self._buffers[name].resize(nbytes)
            self._buffers[name].download(self.stream)

    def _run_and_record(self, layout: Layout, context: Context) -> None:
        """Run call by call in a context of the layout's own, and record the same as a graph.

        TensorRT wants a context to have run once at its shapes before it is recorded.
        """
        try:
            self.enqueue(layout, context)
            if context.capturable(self.stream):
                layout.graph = self.record(lambda: self.enqueue(layout, context))
            else:
                self._graphs.refused = "TensorRT says that this engine can't be captured"
        finally:
            if layout.graph:
                layout.context = context
                self._layouts.trim()
            else:
                self.settle()
                context.close()

    def record(self, work: Callable[[], None]) -> int:
        """Return the graph of what `work` starts, or 0 where that is refused: then no more are made.

        The results of what was started before stay as they are.
        """
        # What waits in the stream is done first: after a refusal nobody must wonder whether it still runs.
        self.cuda.sync(self.stream)
        graphs: list[int] = []
        try:
            with recording():
                self.cuda.begin_capture(self.stream)
                work()
                graphs.append(self.cuda.end_capture(self.stream))
            return graphs[0]
        except MmtrtError as error:
            self._end_refused()
            self._graphs.refused = error.message
            return 0
        except BaseException:
            # It may have come before the capture's end, or after it.
            self._end_refused()
            for graph in graphs:
                self.cuda.destroy_graph(graph)
            raise

    def _end_refused(self) -> None:
        with contextlib.suppress(MmtrtError):
            self.cuda.destroy_graph(self.cuda.end_capture(self.stream))
