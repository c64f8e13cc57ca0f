"""A runner of numpy arrays, such as ONNX Runtime, run as a session: any host tensors in and out, from any thread."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from mmtrt.errors import InputError
from mmtrt.runtimes import Runner
from mmtrt.runtimes.gate import Gate, closed_error
from mmtrt.runtimes.given import Given, OutputKind, as_torch, check_room, look, room
from mmtrt.tensors import Array, ShapeRange, TensorSpec

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["HostedBound", "HostedRunner"]


class HostedRunner:
    """Enters the runner, whose `infer` any thread may call, and leaves it at `close`."""

    def __init__(self, runner: Runner, *, precision: str, ranges: Mapping[str, ShapeRange]) -> None:
        self._runner = runner.__enter__()
        self._gate = Gate()
        self._closing = threading.Lock()
        self._closed = False
        self.precision = precision
        self.ranges = ranges
        self.notes: tuple[str, ...] = ()
        self.runs = runner.runs
        self.inputs: tuple[TensorSpec, ...] = runner.inputs
        self.outputs: tuple[TensorSpec, ...] = runner.outputs

    def run(
        self, feeds: Mapping[str, Any], *, outputs: OutputKind | None = None, out: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run once; `dlpack` outputs are numpy arrays, which speak it."""
        given, rooms = Given(), Given()
        with self._gate.passing():
            try:
                look(given, feeds, None)
                room(rooms, out or {}, None)
                for name in rooms.host:
                    if all(spec.name != name for spec in self.outputs):
                        raise InputError(f"the model has no output {name!r}", fix=f"It has {self._output_names()}.")
                told: dict[str, Any] = dict(self._runner.infer(given.host))
                for name, array in rooms.host.items():
                    check_room(name, array, str(told[name].dtype), told[name].shape)
                    np.copyto(array, told[name])
                    told[name] = (out or {})[name]
            finally:
                given.release()
                rooms.release()
        return {name: as_torch(value) for name, value in told.items()} if outputs == "torch" else told

    def _output_names(self) -> str:
        return ", ".join(spec.name for spec in self.outputs)

    def bind(self, shapes: Mapping[str, Sequence[int]], feeds: Mapping[str, Any], owner: object = None) -> HostedBound:
        """Return a run at fixed shapes, with inputs as in `feeds` or zero; it holds `owner` until it is closed."""
        given = Given()
        try:
            look(given, feeds, None)
            for spec in self.inputs:
                if spec.name in shapes:
                    given.host[spec.name] = np.zeros(tuple(shapes[spec.name]), spec.dtype)
            inputs = {name: array.copy() for name, array in given.host.items()}
        finally:
            given.release()
        return HostedBound(self, inputs, owner)

    def close_dropped(self) -> None:
        """Close what nobody holds any more."""
        self.close()

    def close(self) -> None:
        """Wait for runs under way, then leave the runner; later runs are InputErrors."""
        with self._closing:
            self._gate.close()
            if not self._closed:
                self._closed = True
                self._runner.__exit__(None, None, None)


class HostedBound:
    """Fulfils `mmtrt.session.Bound`; nothing is gained by it on the CPU, but the loop is the same."""

    cuda_graph = False

    def __init__(self, hosted: HostedRunner, inputs: dict[str, Array], owner: object = None) -> None:
        self._owner = owner
        self._hosted: HostedRunner | None = hosted
        self._turn = threading.Lock()
        self.inputs: Mapping[str, Array] = MappingProxyType(inputs)
        self.outputs: Mapping[str, Array] = MappingProxyType(hosted.run(inputs))

    def run(self) -> Mapping[str, Array]:
        """Run on what `inputs` hold and return `outputs`, which the next run overwrites."""
        with self._turn:
            if self._hosted is None:
                raise closed_error()
            self._hosted.run(self.inputs, out=self.outputs)
        return self.outputs

    def close(self) -> None:
        """Let go of the model."""
        with self._turn:
            self._hosted = self._owner = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
