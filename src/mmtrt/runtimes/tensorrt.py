"""Runs an engine of either flavour: shapes checked, memory kept from call to call, all of it given back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from mmtrt.runtimes.cuda import Cuda, open_cuda
from mmtrt.runtimes.engines.loaded import LoadedEngine
from mmtrt.runtimes.engines.profiling import profile_layers
from mmtrt.runtimes.engines.timed import timed_run
from mmtrt.runtimes.timing import TimedRun
from mmtrt.tensors import Array, Feeds, TensorSpec

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["TensorRTRunner"]

_ending = sys.is_finalizing


class TensorRTRunner:
    """Fulfils `mmtrt.runtimes.Runner`, `Timeable`, and the benchmark's `TellsMemory` and `TellsNotes`, for a plan file.

    The plan is TensorRT's or TensorRT-RTX's. Entering raises InputError for a file that is no engine or was altered,
    and MachineError where this machine can't load it: no GPU, no package, another version, another GPU.
    """

    def __init__(self, engine: Path, *, device: Callable[[], Cuda] = open_cuda) -> None:
        self._path = engine
        self._device = device
        self._loaded: LoadedEngine | None = None

    @property
    def runs(self) -> str:
        """The flavour, its version and the GPU: `TensorRT-RTX 1.7.1.116 on NVIDIA H200`."""
        return self._open.runs

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs, in the engine's order."""
        return self._open.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs, in the engine's order."""
        return self._open.outputs

    @property
    def notes(self) -> tuple[str, ...]:
        """What does not work as well as it might, and why: no CUDA graphs, no cache of compiled kernels."""
        return self._open.notes

    @property
    def device_bytes(self) -> int | None:
        """Bytes of the device's memory that the engine, its workspaces and buffers take; None where CUDA can't tell."""
        return self._open.device_bytes

    @property
    def _open(self) -> LoadedEngine:
        if self._loaded is None:
            raise RuntimeError("the runner is used outside its with-block")
        return self._loaded

    def __enter__(self) -> Self:
        self._loaded = LoadedEngine(self._path, device=self._device, contexts=1)
        return self

    def __exit__(self, *exc: object) -> None:
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.close()

    def __del__(self) -> None:
        if self._loaded is not None and not _ending():
            self._loaded.close_dropped()

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        """Run once; InputError names an input outside the engine's range, with its axis and the range."""
        return self._open.run(feeds, outputs="numpy")

    def timed(self, feeds: Feeds, *, cuda_graph: bool, transfers: bool) -> AbstractContextManager[TimedRun]:
        """Put the inputs in place and give what runs and times them: see `mmtrt.runtimes.engines.timed`."""
        return timed_run(self._open, feeds, cuda_graph=cuda_graph, transfers=transfers)

    def profiled(self, feeds: Feeds) -> tuple[tuple[str, float], ...]:
        """Run once, without a graph, with TensorRT's profiler; return `(layer, ms)` of each layer in its order.

        TensorRT waits after each layer, or nearly: the sum is more than a run takes otherwise. Layers' names are
        those of the engine; one built without names gives numbers. Run it a few times and leave out the first.
        """
        return profile_layers(self._open, feeds)
