"""Builders: what they are told goes into the plan with the ONNX, and nothing is made faster by it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from engine_stand_in.model import Model, Tensor
from engine_stand_in.names import DataType, Dims, IHostMemory, ILogger, ProfilingVerbosity, _Numbered, say_error
from engine_stand_in.plan import pack

__all__ = [
    "Builder",
    "BuilderFlag",
    "IBuilderConfig",
    "INetworkDefinition",
    "IOptimizationProfile",
    "ITensor",
    "ITimingCache",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
]


class BuilderFlag(_Numbered):
    VERSION_COMPATIBLE = 0


class MemoryPoolType(_Numbered):
    WORKSPACE = 0


class NetworkDefinitionCreationFlag:
    """Of its flags none is in all releases."""


class ITensor:
    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self.name = tensor.name
        self.dtype: DataType = tensor.dtype
        self.shape = Dims([dim if isinstance(dim, int) else -1 for dim in tensor.shape])
        self.is_shape_tensor = False

    def get_dimension_name(self, index: int) -> str:
        dim = self._tensor.shape[index]
        return dim if isinstance(dim, str) else ""


class INetworkDefinition:
    def __init__(self) -> None:
        self._onnx = b""
        self._model: Model | None = None

    def _tensors(self, *, inputs: bool) -> list[ITensor]:
        tensors = self._model.tensors if self._model else []
        return [ITensor(tensor) for tensor in tensors if tensor.is_input == inputs]

    @property
    def num_inputs(self) -> int:
        return len(self._tensors(inputs=True))

    @property
    def num_outputs(self) -> int:
        return len(self._tensors(inputs=False))

    @property
    def num_layers(self) -> int:
        return len(self._model.nodes) if self._model else 0

    def get_input(self, index: int) -> ITensor:
        return self._tensors(inputs=True)[index]

    def get_output(self, index: int) -> ITensor:
        return self._tensors(inputs=False)[index]


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network = network
        self._logger = logger

    def parse_from_file(self, model: str) -> bool:
        try:
            # With its weights in it: a plan is one file.
            whole = onnx.load(Path(model)).SerializeToString()
            self._network._model = Model(whole)
        except Exception as error:  # noqa: BLE001 -- it is no ONNX, whatever the reader makes of it
            say_error(self._logger, f"ModelImporter: {error}")
            return False
        self._network._onnx = whole
        return True

    @property
    def num_errors(self) -> int:
        return 0


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:  # noqa: A002
        self._shapes[input] = [list(min), list(opt), list(max)]


class ITimingCache:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def serialize(self) -> IHostMemory:
        return IHostMemory(self._data)


class IBuilderConfig:
    def __init__(self) -> None:
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self.builder_optimization_level = 3
        self._profile: dict[str, list[list[int]]] = {}
        self._timing: ITimingCache | None = None

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        pass

    def set_flag(self, flag: BuilderFlag) -> None:
        pass

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profile = profile._shapes
        return 0

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(bytes(serialized_timing_cache) or b"timed on the emulated GPU")

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:  # noqa: ARG002
        self._timing = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._timing


class Builder:
    """`$EMULATED_BUILD_MS` is how long a build takes."""

    _MAGIC = b"ftrt"

    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:  # noqa: ARG002
        return INetworkDefinition()

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> Any:
        time.sleep(int(os.environ.get("EMULATED_BUILD_MS", "0")) / 1e3)
        told = {"profile": config._profile or _static(network), "work": "run"}
        return IHostMemory(pack(self._MAGIC, network._onnx, told))


def _static(network: INetworkDefinition) -> dict[str, list[list[int]]]:
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    return {tensor.name: [list(tensor.shape)] * 3 for tensor in inputs}
