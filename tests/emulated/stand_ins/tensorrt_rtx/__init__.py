"""Stands in for TensorRT-RTX: its own names, over engines that ONNX Runtime runs."""

from __future__ import annotations

from engine_stand_in.engine import EngineInspector
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
from engine_stand_in.rtx import (
    CudaGraphStrategy,
    DynamicShapesKernelSpecializationStrategy,
    EngineValidity,
    ICudaEngine,
    IRuntimeCache,
    IRuntimeConfig,
    Runtime,
)
from engine_stand_in.rtx import RtxContext as IExecutionContext

__all__ = [
    "CudaGraphStrategy",
    "DataType",
    "Dims",
    "DynamicShapesKernelSpecializationStrategy",
    "EngineInspector",
    "EngineValidity",
    "ExecutionContextAllocationStrategy",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "ILogger",
    "IProfiler",
    "IRuntimeCache",
    "IRuntimeConfig",
    "LayerInformationFormat",
    "Logger",
    "Profiler",
    "ProfilingVerbosity",
    "Runtime",
    "TensorIOMode",
    "TensorLocation",
    "nptype",
]

__version__ = "1.7.1"
