"""The ONNX inside a plan: its tensors, the shapes of its outputs, and running it."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx

from engine_stand_in.names import NUMPY, DataType

__all__ = ["Model", "Shape", "Tensor"]

Shape = tuple[int, ...]
_TYPES = {np.dtype(numpy): trt for trt, numpy in NUMPY.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or output; a dynamic axis has its name in `shape`."""

    name: str
    dtype: DataType
    shape: tuple[int | str, ...]
    is_input: bool

    @property
    def numpy(self) -> Any:
        return np.dtype(NUMPY[self.dtype])

    def nbytes(self, shape: Shape) -> int:
        return math.prod(shape) * self.numpy.itemsize


class Model:
    """Opened from bytes; runs from any thread."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._lock = threading.Lock()
        self._known: dict[tuple[Shape, ...], dict[str, Shape]] = {}
        proto = onnx.load_model_from_string(data)
        constants = {tensor.name for tensor in proto.graph.initializer}
        self.tensors = [_tensor(value, is_input=True) for value in proto.graph.input if value.name not in constants]
        self.tensors += [_tensor(value, is_input=False) for value in proto.graph.output]
        self.nodes = [(n.name or f"node_{i}", n.op_type, list(n.input), list(n.output)) for i, n in _nodes(proto)]
        self.weight_bytes = len(data)

    @cached_property
    def _session(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return onnxruntime.InferenceSession(self._data, options, providers=["CPUExecutionProvider"])

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        with self._lock:
            session = self._session
        names = [tensor.name for tensor in self.tensors if not tensor.is_input]
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))

    def output_shapes(self, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """Return the shapes of the outputs: by the names of dynamic axes, else by running on zeros."""
        key = tuple(shapes[tensor.name] for tensor in self.tensors if tensor.is_input)
        if key not in self._known:
            self._known[key] = self._by_names(shapes) or self._by_running(shapes)
        return self._known[key]

    def _by_names(self, shapes: Mapping[str, Shape]) -> dict[str, Shape] | None:
        sizes: dict[int | str, int] = {}
        for tensor in self.tensors:
            if tensor.is_input:
                sizes.update(zip(tensor.shape, shapes[tensor.name], strict=True))
        told = {t.name: [sizes.get(dim, dim) for dim in t.shape] for t in self.tensors if not t.is_input}
        if not all(isinstance(dim, int) for shape in told.values() for dim in shape):
            return None
        return {name: tuple(int(dim) for dim in shape) for name, shape in told.items()}

    def _by_running(self, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        zeros = {t.name: np.zeros(shapes[t.name], t.numpy) for t in self.tensors if t.is_input}
        return {name: array.shape for name, array in self.run(zeros).items()}


def _nodes(proto: Any) -> Any:
    return enumerate(node for node in proto.graph.node if node.op_type != "Constant")


def _tensor(value: Any, *, is_input: bool) -> Tensor:
    kind = value.type.tensor_type
    dims = [d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in kind.shape.dim]
    shape = tuple(f"{value.name}_{axis}" if dim == "?" else dim for axis, dim in enumerate(dims))
    dtype = _TYPES[np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))]
    return Tensor(name=value.name, dtype=dtype, shape=shape, is_input=is_input)
