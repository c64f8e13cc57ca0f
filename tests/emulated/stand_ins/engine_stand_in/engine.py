"""Runtimes, engines and inspectors."""

from __future__ import annotations

import json
from typing import Any

from engine_stand_in import device
from engine_stand_in.context import IExecutionContext
from engine_stand_in.model import Model, Tensor
from engine_stand_in.names import (
    DataType,
    Dims,
    ExecutionContextAllocationStrategy,
    IHostMemory,
    ILogger,
    LayerInformationFormat,
    ProfilingVerbosity,
    TensorIOMode,
    TensorLocation,
    say_error,
)
from engine_stand_in.plan import unpack

__all__ = ["EngineInspector", "ICudaEngine", "Runtime"]

_SCRATCH_BYTES = 1 << 16


class EngineInspector:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self.execution_context: IExecutionContext | None = None

    def get_layer_information(self, layer_index: int, format: LayerInformationFormat) -> str:  # noqa: A002
        layer = _layer(self._engine._model.nodes[layer_index])
        return json.dumps(layer) if format == LayerInformationFormat.JSON else f"{layer['Name']}\n"

    def get_engine_information(self, format: LayerInformationFormat) -> str:  # noqa: A002
        layers = [_layer(node) for node in self._engine._model.nodes]
        if format == LayerInformationFormat.JSON:
            return json.dumps({"Layers": layers, "Bindings": [t.name for t in self._engine._model.tensors]})
        return "".join(f"{layer['Name']}\n" for layer in layers)


def _layer(node: Any) -> dict[str, Any]:
    name, kind, inputs, outputs = node
    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": [{"Name": tensor} for tensor in inputs],
        "Outputs": [{"Name": tensor} for tensor in outputs],
        "Metadata": f"[ONNX Layer: {name}]",
    }


class ICudaEngine:
    """Its weights are on the device as long as it lives."""

    _CONTEXT: type[IExecutionContext] = IExecutionContext

    def __init__(self, logger: ILogger, plan: bytes, magic: bytes) -> None:
        onnx, self._told = unpack(magic, plan)
        self._logger = logger
        self._plan = plan
        self._model = Model(onnx)
        self._weights = device.Memory(self._model.weight_bytes)

    def _tensor(self, name: str) -> Tensor:
        found = next((tensor for tensor in self._model.tensors if tensor.name == name), None)
        if found is None:
            raise ValueError(f"given invalid tensor name: {name}")
        return found

    @property
    def name(self) -> str:
        return "Unnamed Network 0"

    @property
    def num_io_tensors(self) -> int:
        return len(self._model.tensors)

    @property
    def num_layers(self) -> int:
        return len(self._model.nodes)

    @property
    def num_optimization_profiles(self) -> int:
        return 1

    @property
    def num_aux_streams(self) -> int:
        return 0

    @property
    def profiling_verbosity(self) -> ProfilingVerbosity:
        return ProfilingVerbosity.DETAILED

    @property
    def device_memory_size_v2(self) -> int:
        return _SCRATCH_BYTES

    def get_tensor_name(self, index: int) -> str:
        return self._model.tensors[index].name

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if self._tensor(name).is_input else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return self._tensor(name).dtype

    def get_tensor_location(self, name: str) -> TensorLocation:
        self._tensor(name)
        return TensorLocation.DEVICE

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims(dim if isinstance(dim, int) else -1 for dim in self._tensor(name).shape)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        if profile_index:
            raise ValueError(f"there is no profile {profile_index}")
        fixed = [list(self._tensor(name).shape)] * 3
        return [Dims(shape) for shape in self._told.get("profile", {}).get(name, fixed)]

    def create_execution_context(self, *given: Any, **named: Any) -> IExecutionContext | None:
        (config,) = (*given, *named.values()) or (None,)
        plain = isinstance(config, ExecutionContextAllocationStrategy)
        told = config if plain else getattr(config, "_allocation", None)
        managed = told is ExecutionContextAllocationStrategy.USER_MANAGED
        try:
            return self._CONTEXT(self, None if plain else config, managed=managed)
        except MemoryError as error:
            say_error(self._logger, f"Error Code 2: OutOfMemory (Requested size was {error} bytes.)")
            return None

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self)

    def serialize(self) -> IHostMemory:
        return IHostMemory(self._plan)


class Runtime:
    _MAGIC = b"ftrt"
    _ENGINE = ICudaEngine

    def __init__(self, logger: ILogger) -> None:
        if not getattr(logger, "_made", False):
            raise TypeError("ILogger.__init__() must be called when overriding __init__")
        self.logger = logger
        self.engine_host_code_allowed = False
        self.max_threads = 1

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        try:
            return self._ENGINE(self.logger, bytes(serialized_engine), self._MAGIC)
        except ValueError as error:
            say_error(
                self.logger,
                f"IRuntime::deserializeCudaEngine: Error Code 1: Serialization (assertion failed. {error})",
            )
        except MemoryError as error:
            say_error(self.logger, f"Error Code 2: OutOfMemory (Requested size was {error} bytes.)")
        return None
