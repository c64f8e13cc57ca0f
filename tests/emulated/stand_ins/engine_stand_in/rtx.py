"""What TensorRT-RTX adds: settings of a context, a cache of compiled kernels, and whether an engine fits a device."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from engine_stand_in.context import IExecutionContext
from engine_stand_in.engine import ICudaEngine as _Engine
from engine_stand_in.engine import Runtime as _Runtime
from engine_stand_in.names import ExecutionContextAllocationStrategy, IHostMemory, _Numbered
from engine_stand_in.plan import HEADER_BYTES, unpack

__all__ = [
    "CudaGraphStrategy",
    "DynamicShapesKernelSpecializationStrategy",
    "EngineValidity",
    "ICudaEngine",
    "IRuntimeCache",
    "IRuntimeConfig",
    "RtxContext",
    "Runtime",
]


class DynamicShapesKernelSpecializationStrategy(_Numbered):
    LAZY, EAGER, NONE = range(3)


class CudaGraphStrategy(_Numbered):
    DISABLED, WHOLE_GRAPH_CAPTURE = range(2)


class EngineValidity(_Numbered):
    VALID, SUBOPTIMAL, INVALID = range(3)


class IRuntimeCache:
    """Kernels by the shapes that they were compiled for."""

    def __init__(self) -> None:
        self._kernels: list[str] = []

    def serialize(self) -> IHostMemory:
        return IHostMemory(b"rtrc" + json.dumps(self._kernels).encode())

    def deserialize(self, blob: bytes) -> bool:
        data = bytes(blob)
        if not data.startswith(b"rtrc"):
            return False
        self._kernels = json.loads(data[4:])
        return True

    def reset(self) -> bool:
        self._kernels = []
        return True


class IRuntimeConfig:
    def __init__(self) -> None:
        self.dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY
        self.cuda_graph_strategy = CudaGraphStrategy.DISABLED
        self._allocation = ExecutionContextAllocationStrategy.STATIC
        self._cache: IRuntimeCache | None = None

    @property
    def _capturable(self) -> bool:
        # The lazy one compiles behind the caller's back, and a context that captures itself can't be captured.
        lazy = self.dynamic_shapes_kernel_specialization_strategy == DynamicShapesKernelSpecializationStrategy.LAZY
        return not lazy and self.cuda_graph_strategy == CudaGraphStrategy.DISABLED

    def get_execution_context_allocation_strategy(self) -> ExecutionContextAllocationStrategy:
        return self._allocation

    def set_execution_context_allocation_strategy(
        self, strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC
    ) -> None:
        self._allocation = strategy

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache()

    def set_runtime_cache(self, cache: IRuntimeCache | None = None) -> bool:
        self._cache = cache
        return True

    def get_runtime_cache(self) -> IRuntimeCache | None:
        return self._cache


class RtxContext(IExecutionContext):
    """Compiles for new shapes when they are set, unless the cache holds them."""

    def __init__(self, engine: Any, config: Any = None, *, managed: bool = False) -> None:
        super().__init__(engine, config or IRuntimeConfig(), managed=managed)

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        done = super().set_input_shape(name, shape)
        cache = self._config.get_runtime_cache()
        if done and cache is not None and not self._missing():
            key = json.dumps(sorted(self._shapes.items()))
            if key not in cache._kernels:
                cache._kernels.append(key)
        return done

    def is_stream_capturable(self, stream: int) -> bool:  # noqa: ARG002
        return self._config._capturable

    def get_runtime_config(self) -> IRuntimeConfig:
        return self._config


class ICudaEngine(_Engine):
    _CONTEXT = RtxContext

    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig()


class Runtime(_Runtime):
    _MAGIC = b"vtrt"
    _ENGINE = ICudaEngine

    @property
    def engine_header_size(self) -> int:
        return HEADER_BYTES

    def get_engine_validity(self, buffer: bytes) -> tuple[EngineValidity, int]:
        try:
            unpack(self._MAGIC, bytes(buffer))
        except ValueError:
            # The header alone is enough for the real one.
            fits = bytes(buffer[:4]) == self._MAGIC and len(buffer) >= HEADER_BYTES
            return (EngineValidity.VALID, 0) if fits else (EngineValidity.INVALID, 1)
        return EngineValidity.VALID, 0
