"""Execution contexts: shapes and addresses are set, and an execution takes those of the moment it is enqueued at."""

from __future__ import annotations

import ctypes
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine_stand_in import device
from engine_stand_in.model import Model, Shape, Tensor
from engine_stand_in.names import Dims, IProfiler, say_error

__all__ = ["IExecutionContext"]

_ALIGNMENT = 256


class _Execution:
    """What one enqueued execution is bound to. It lives no longer than its context: after that its memory is gone."""

    def __init__(self, owner: IExecutionContext, bound: Sequence[tuple[Tensor, Shape, int]]) -> None:
        self._owner = weakref.ref(owner)
        self._bound = bound

    def __call__(self) -> int:
        owner = self._owner()
        if owner is None:
            return device.ILLEGAL_ADDRESS
        if device.reach(owner._scratch_pointer, owner.engine.device_memory_size_v2) is None:
            return device.ILLEGAL_ADDRESS
        # Two executions of one context share its scratch memory.
        if not owner._busy.acquire(blocking=False):
            return device.LAUNCH_FAILED
        try:
            return self._run(owner)
        finally:
            owner._busy.release()

    def _run(self, owner: IExecutionContext) -> int:
        arrays = {}
        for tensor, shape, address in self._bound:
            at = device.reach(address, tensor.nbytes(shape))
            if at is None:
                return device.ILLEGAL_ADDRESS
            memory = (ctypes.c_uint8 * tensor.nbytes(shape)).from_address(at)
            arrays[tensor.name] = np.frombuffer(memory, tensor.numpy).reshape(shape)
        start = time.perf_counter()
        inputs = {tensor.name: arrays[tensor.name] for tensor, _, __ in self._bound if tensor.is_input}
        for name, array in owner._model.run(inputs).items():
            arrays[name][...] = array
        owner._took_ms = (time.perf_counter() - start) * 1e3
        return 0


class IExecutionContext:
    """Made by an engine; it holds device memory for what lies between layers, unless the user manages that."""

    def __init__(self, engine: Any, config: Any = None, *, managed: bool = False) -> None:
        self.engine = engine
        self.name = "Unnamed Execution Context"
        self.enqueue_emits_profile = True
        self.profiler: IProfiler | None = None
        self._config = config
        self._model: Model = engine._model
        self._scratch = None if managed else device.Memory(engine.device_memory_size_v2)
        self._scratch_pointer = 0 if self._scratch is None else self._scratch.pointer
        self._busy = threading.Lock()
        self._took_ms = 0.0
        self._addresses: dict[str, int] = {}
        self._shapes: dict[str, Shape] = {
            tensor.name: tensor.shape
            for tensor in self._model.tensors
            if tensor.is_input and all(isinstance(dim, int) for dim in tensor.shape)
        }
        self._ran: tuple[tuple[str, Shape], ...] | None = None

    def _tell(self, text: str) -> bool:
        say_error(self.engine._logger, f"IExecutionContext::{text}")
        return False

    def _tensor(self, name: str) -> Tensor | None:
        return next((tensor for tensor in self._model.tensors if tensor.name == name), None)

    @property
    def active_optimization_profile(self) -> int:
        return 0

    @property
    def all_binding_shapes_specified(self) -> bool:
        return not self._missing()

    def _missing(self) -> list[str]:
        return [t.name for t in self._model.tensors if t.is_input and t.name not in self._shapes]

    def set_device_memory(self, memory: int, size: int) -> None:
        if self._scratch is not None or size < self.engine.device_memory_size_v2 or memory % _ALIGNMENT:
            self._tell("setDeviceMemoryV2: Error Code 3: API Usage Error")
            return
        self._scratch_pointer = memory

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        tensor = self._tensor(name)
        if tensor is None or not tensor.is_input:
            return self._tell(f"setInputShape: Error Code 3: API Usage Error (given invalid tensor name: {name})")
        low, _, high = self.engine.get_tensor_profile_shape(name, 0)
        wanted = tuple(shape)
        if len(wanted) != len(tensor.shape) or not all(
            a <= size <= b for a, size, b in zip(low, wanted, high, strict=True)
        ):
            return self._tell(
                f"setInputShape: Error Code 3: API Usage Error (Parameter check failed, condition: engineDims.nbDims"
                f" == dims.nbDims. Supplied binding dimension {wanted} for {name} exceeds {tuple(low)} ~ {tuple(high)})"
            )
        self._shapes[name] = wanted
        return True

    def infer_shapes(self) -> list[str]:
        return self._missing()

    def get_tensor_shape(self, name: str) -> Dims:
        tensor = self._tensor(name)
        if tensor is None:
            self._tell(f"getTensorShape: Error Code 3: API Usage Error (given invalid tensor name: {name})")
            return Dims((-1,))
        if tensor.is_input:
            return Dims(self._shapes.get(name, _dynamic(tensor)))
        if self._missing():
            return Dims(_dynamic(tensor))
        return Dims(self._model.output_shapes(self._shapes)[name])

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if self._tensor(name) is None:
            return self._tell(f"setTensorAddress: Error Code 3: API Usage Error (given invalid tensor name: {name})")
        if memory % _ALIGNMENT:
            return self._tell(
                f"setTensorAddress: Error Code 3: API Usage Error ({name} is not {_ALIGNMENT}-byte aligned)"
            )
        self._addresses[name] = memory
        return True

    def get_tensor_address(self, name: str) -> int:
        return self._addresses.get(name, 0)

    def update_device_memory_size_for_shapes(self) -> int:
        return int(self.engine.device_memory_size_v2)

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:  # noqa: ARG002
        return profile_index == 0 or self._tell("setOptimizationProfileAsync: Error Code 3: no such profile")

    def execute_async_v3(self, stream_handle: int) -> bool:
        missing = self._missing()
        if missing:
            return self._tell(f"enqueueV3: Error Code 3: API Usage Error (the shape of {missing[0]} is not set)")
        outputs = self._model.output_shapes(self._shapes)
        bound = [(t, (self._shapes | outputs)[t.name], self._addresses.get(t.name, 0)) for t in self._model.tensors]
        if not self._scratch_pointer:
            return self._tell("enqueueV3: Error Code 3: API Usage Error (no device memory is set)")
        for tensor, _, address in bound:
            if not address:
                return self._tell(f"enqueueV3: Error Code 3: API Usage Error (the address of {tensor.name} is not set)")
        if not self._ready(stream_handle):
            return self._tell(
                "enqueueV3: Error Code 1: Cuda Runtime (operation not permitted when stream is capturing)"
            )
        if not self._launch(stream_handle, bound):
            return self._tell("enqueueV3: Error Code 1: Cuda Runtime (the launch failed)")
        if self.profiler is not None and self.enqueue_emits_profile and not device.capturing(stream_handle):
            device.finish(stream_handle)
            self.report_to_profiler()
        return True

    def _ready(self, stream: int) -> bool:
        """The first execution at new shapes does what can't be captured, as TensorRT's guide says of enqueueV3."""
        shapes = tuple(sorted(self._shapes.items()))
        if shapes != self._ran and device.capturing(stream):
            device.refuse_capture()
            return False
        self._ran = shapes
        return True

    def _launch(self, stream: int, bound: Sequence[tuple[Tensor, Shape, int]]) -> bool:
        work = os.environ.get("EMULATED_ENGINE", self.engine._told.get("work", "run"))
        kind, _, nanoseconds = work.partition(":")
        enqueue: Callable[[], bool] = (
            (lambda: device.launch(stream, _Execution(self, bound)))
            if kind == "run"
            else (lambda: device.spin(stream, int(nanoseconds or 0)))
        )
        return enqueue()

    def report_to_profiler(self) -> bool:
        """Each layer is told an equal share of the last execution: ONNX Runtime tells no more."""
        if self.profiler is None:
            return self._tell("reportToProfiler: Error Code 3: API Usage Error (no profiler is set)")
        for name, *_ in self._model.nodes:
            self.profiler.report_layer_time(name, self._took_ms / len(self._model.nodes))
        return True


def _dynamic(tensor: Tensor) -> Shape:
    return tuple(dim if isinstance(dim, int) else -1 for dim in tensor.shape)
