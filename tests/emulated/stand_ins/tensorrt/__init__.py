"""Stands in for TensorRT: its own names, over engines that ONNX Runtime runs. `$EMULATED_TENSORRT` is the version."""

from __future__ import annotations

import os

from engine_stand_in.builder import (
    Builder,
    BuilderFlag,
    IBuilderConfig,
    INetworkDefinition,
    IOptimizationProfile,
    ITensor,
    ITimingCache,
    MemoryPoolType,
    NetworkDefinitionCreationFlag,
    OnnxParser,
)
from engine_stand_in.context import IExecutionContext
from engine_stand_in.engine import EngineInspector, ICudaEngine, Runtime
from engine_stand_in.names import (
    DataType,
    Dims,
    ExecutionContextAllocationStrategy,
    IHostMemory,
    ILogger,
    IProfiler,
    LayerInformationFormat,
    Logger,
    Profiler,
    ProfilingVerbosity,
    TensorIOMode,
    TensorLocation,
    nptype,
)

__all__ = [
    "Builder",
    "BuilderFlag",
    "DataType",
    "Dims",
    "EngineInspector",
    "ExecutionContextAllocationStrategy",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IProfiler",
    "ITensor",
    "ITimingCache",
    "LayerInformationFormat",
    "Logger",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "Profiler",
    "ProfilingVerbosity",
    "Runtime",
    "TensorIOMode",
    "TensorLocation",
    "nptype",
]

__version__ = os.environ.get("EMULATED_TENSORRT", "10.16.0")
