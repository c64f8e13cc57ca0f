"""PyTorch on a GPU, timed as an engine is: copies in, compute, copies out, each between two CUDA events."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import torch

from mmtrt.errors import MachineError
from mmtrt.runtimes.checks import check_feeds
from mmtrt.runtimes.timing import TimedRun, Timing
from mmtrt.runtimes.torch_module import LoadedModule, TorchRunner
from mmtrt.tensors import Feeds

__all__ = ["TorchGpuRunner", "torch_runner"]

_SETTLE = 5
"""Runs before timing: PyTorch's graphs warm up once, are recorded once, and are replayed from then on."""


def torch_runner(
    load: Callable[[], LoadedModule],
    *,
    kind: Literal["torch", "torch-compile"],
    precision: Literal["fp32", "fp16"] = "fp32",
) -> TorchRunner:
    """Return PyTorch's runner of this machine: on the GPU where PyTorch sees one, else on the CPU."""
    if torch.cuda.is_available():
        return TorchGpuRunner(load, kind=kind, precision=precision)
    return TorchRunner(load, kind=kind, precision=precision)


class TorchGpuRunner(TorchRunner):
    """Fulfils `Runner` and `Timeable` on the first GPU.

    Compiled with `max-autotune`, which replays CUDA graphs where it can; without graphs where none are asked for.
    """

    device = torch.device("cuda", 0)

    @property
    def precision(self) -> Literal["fp32", "fp16"]:
        """What it computes in: what was asked for."""
        return self._asked

    @property
    def _how(self) -> str:
        return "eager" if self._kind == "torch" else "torch.compile max-autotune"

    @property
    def _where(self) -> str:
        return f"on {torch.cuda.get_device_name(self.device)}"

    @property
    def device_bytes(self) -> int | None:
        """Bytes that PyTorch has taken from the device, what it keeps for later included."""
        return int(torch.cuda.memory_reserved(self.device))

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        torch.cuda.empty_cache()

    @contextlib.contextmanager
    def timed(self, feeds: Feeds, *, cuda_graph: bool, transfers: bool) -> Iterator[TimedRun]:
        """Put inputs into page-locked memory and onto the device, compile for their shapes, and give what runs them."""
        check_feeds(feeds, self.inputs)
        graphs = cuda_graph and self._kind == "torch-compile"
        tensors = self._tensors(feeds)
        for tensor in tensors.values():
            # Its address stays, so that a graph needs no copy of it.
            torch._dynamo.mark_static_address(tensor)  # noqa: SLF001 - PyTorch's way to say so
        call = self._ready(tensors, cuda_graph=graphs)
        run = _Run(call, feeds, tensors, transfers=transfers)
        for _ in range(_SETTLE):
            run.once()
        run.cuda_graph = graphs and run.replays_graph()
        yield run

    def _mode(self, *, cuda_graph: bool) -> str | None:
        return "max-autotune" if cuda_graph else "max-autotune-no-cudagraphs"

    def _check_compiler(self) -> None:
        super()._check_compiler()
        if find_spec("triton") is None:
            raise MachineError(
                "torch.compile needs triton on a GPU", fix="pip install triton, or leave torch-compile out."
            )


class _Run:
    """Runs the same inputs again and again, on a stream of its own."""

    clock = "cuda_event"

    def __init__(
        self, call: Callable[..., Any], feeds: Feeds, tensors: Mapping[str, torch.Tensor], *, transfers: bool
    ) -> None:
        self._call = call
        self._tensors = dict(tensors)
        self._pinned = {name: _pinned(torch.from_numpy(np.ascontiguousarray(array))) for name, array in feeds.items()}
        self._results: list[torch.Tensor] | None = None
        self._stream = torch.cuda.Stream()
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(4)]
        self.transfers = transfers
        self.cuda_graph = False

    def once(self) -> Timing:
        """Run once, and wait for it."""
        start = time.perf_counter_ns()
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            self._enqueue(self._events)
        enqueued = time.perf_counter_ns()
        self._events[-1].synchronize()
        stop = time.perf_counter_ns()
        begin, fed, computed, end = self._events
        compute = fed.elapsed_time(computed)
        return Timing(
            latency_ms=begin.elapsed_time(end) if self.transfers else compute,
            host_ms=(stop - start) / 1e6,
            enqueue_ms=(enqueued - start) / 1e6,
            h2d_ms=begin.elapsed_time(fed) if self.transfers else None,
            compute_ms=compute,
            d2h_ms=computed.elapsed_time(end) if self.transfers else None,
        )

    def burst(self, queries: int) -> float:
        """Enqueue all, wait for the last."""
        start = time.perf_counter_ns()
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            for _ in range(queries):
                self._enqueue(None)
        self._stream.synchronize()
        return (time.perf_counter_ns() - start) / 1e9

    def replays_graph(self) -> bool:
        """Tell whether a run launches a CUDA graph, by what the driver was asked to do in one."""
        with torch.profiler.profile() as profile:
            self.once()
        return any("cudaGraphLaunch" in event.key for event in profile.key_averages())

    def _enqueue(self, events: list[torch.cuda.Event] | None) -> None:
        def record(index: int) -> None:
            if events is not None:
                events[index].record(self._stream)

        record(0)
        if self.transfers:
            for name, tensor in self._tensors.items():
                tensor.copy_(self._pinned[name], non_blocking=True)
        record(1)
        # What a replayed graph gave last time may be written over now.
        torch.compiler.cudagraph_mark_step_begin()
        leaves = self._call(**self._tensors)
        record(2)
        if self.transfers:
            if self._results is None:
                self._results = [_pinned(torch.empty(leaf.shape, dtype=leaf.dtype)) for leaf in leaves]
            for result, leaf in zip(self._results, leaves, strict=True):
                result.copy_(leaf, non_blocking=True)
        record(3)


def _pinned(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.pin_memory()
