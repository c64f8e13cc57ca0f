"""Enumerations, loggers and profilers, named as TensorRT names them."""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterator, Sequence

import numpy as np


class _Numbered(enum.Enum):
    def __int__(self) -> int:
        return int(self.value)


class DataType(_Numbered):
    FLOAT, HALF, INT8, INT32, BOOL, UINT8, FP8, BF16, INT64, INT4 = range(10)

    @property
    def itemsize(self) -> float:
        return {"INT4": 0.5, "INT64": 8, "FLOAT": 4, "INT32": 4, "HALF": 2, "BF16": 2}.get(self.name, 1)


class TensorIOMode(_Numbered):
    NONE, INPUT, OUTPUT = range(3)


class TensorLocation(_Numbered):
    DEVICE, HOST = range(2)


class ProfilingVerbosity(_Numbered):
    LAYER_NAMES_ONLY, NONE, DETAILED = range(3)


class LayerInformationFormat(_Numbered):
    ONELINE, JSON = range(2)


class ExecutionContextAllocationStrategy(_Numbered):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)


NUMPY = {
    DataType.FLOAT: np.float32,
    DataType.HALF: np.float16,
    DataType.INT8: np.int8,
    DataType.INT32: np.int32,
    DataType.BOOL: np.bool_,
    DataType.UINT8: np.uint8,
    DataType.INT64: np.int64,
}


def nptype(trt_type: DataType) -> type:
    return NUMPY[trt_type]


class Dims:
    """A shape; any sequence is taken for one."""

    MAX_DIMS = 8

    def __init__(self, shape: Sequence[int] = ()) -> None:
        self._shape = tuple(shape)

    def __len__(self) -> int:
        return len(self._shape)

    def __getitem__(self, axis: int) -> int:
        return self._shape[axis]

    def __iter__(self) -> Iterator[int]:
        return iter(self._shape)

    def __repr__(self) -> str:
        return str(self._shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (Dims, tuple, list)) and self._shape == tuple(other)

    __hash__ = None


class IHostMemory(bytes):
    __slots__ = ()

    @property
    def nbytes(self) -> int:
        return len(self)


class ILogger:
    class Severity(_Numbered):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity

    def __init__(self) -> None:
        self._made = True

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


def say_error(ear: ILogger, text: str) -> None:
    """Tell a logger of an error."""
    ear.log(ILogger.ERROR, text)


class Logger(ILogger):
    def __init__(self, min_severity: ILogger.Severity = ILogger.WARNING) -> None:
        super().__init__()
        self.min_severity = min_severity

    def log(self, severity: ILogger.Severity, msg: str) -> None:
        if severity.value <= self.min_severity.value:
            sys.stderr.write(f"[TRT] [{severity.name}] {msg}\n")


class IProfiler:
    def __init__(self) -> None:
        self._made = True

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        raise NotImplementedError


class Profiler(IProfiler):
    def report_layer_time(self, layer_name: str, ms: float) -> None:
        sys.stdout.write(f"{layer_name}: {ms}ms\n")
