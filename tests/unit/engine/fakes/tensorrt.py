"""Stands in for `tensorrt`: an "ONNX" is JSON, a plan holds what the builder was told, running doubles.

`$FAKE_TENSORRT=11` takes away what version 11 took away; `bare` also takes what old releases did not have; `rtx` adds
what only TensorRT-RTX has. `$FAKE_TENSORRT_DLA` is how many DLA cores there are. What stands under `strongly` in an
"ONNX" holds where the network is strongly typed.
"""

# ruff: noqa: ANN001, ANN201, ANN202, ANN204, ARG002, ARG005 -- signatures are TensorRT's own

from __future__ import annotations

import enum
import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

KIND = os.environ.get("FAKE_TENSORRT", "10")
__version__ = {"10": "10.3.0", "11": "11.4.1", "bare": "10.0.0", "rtx": "1.7.1"}[KIND]
DataType = enum.Enum("DataType", "FLOAT HALF BF16 INT8 INT32 INT64 BOOL FP8")
TensorLocation = enum.Enum("TensorLocation", "DEVICE HOST")
TensorIOMode = enum.Enum("TensorIOMode", "NONE INPUT OUTPUT")
ProfilingVerbosity = enum.Enum("ProfilingVerbosity", "NONE DETAILED")
LayerInformationFormat = enum.Enum("LayerInformationFormat", "ONELINE JSON")
ExecutionContextAllocationStrategy = enum.Enum("ExecutionContextAllocationStrategy", "STATIC USER_MANAGED")
MemoryPoolType = enum.Enum("MemoryPoolType", "WORKSPACE")
_FLAGS = "VERSION_COMPATIBLE GPU_FALLBACK"
BuilderFlag = enum.Enum("BuilderFlag", _FLAGS if KIND == "11" else f"{_FLAGS} FP16 INT8")
DeviceType = enum.Enum("DeviceType", "GPU DLA")
LayerType = enum.Enum("LayerType", "CONVOLUTION QUANTIZE DEQUANTIZE")
HardwareCompatibilityLevel = enum.Enum("HardwareCompatibilityLevel", "NONE AMPERE_PLUS")
NetworkDefinitionCreationFlag = SimpleNamespace() if KIND == "11" else SimpleNamespace(STRONGLY_TYPED=1)
if KIND != "bare":
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")
if KIND == "rtx":
    CudaGraphStrategy = SimpleNamespace(DISABLED="disabled")
HEADER = b"ftrt".ljust(64, b"\0")


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self) -> None:
        self.made = True


class Tensor:
    def __init__(self, name, row):
        self.name = name
        self.dtype = DataType[row.get("dtype", "FLOAT")]
        self.shape = row["shape"]
        self.is_shape_tensor = row.get("is_shape_tensor", False)
        self._names = row.get("names", [""] * len(self.shape))

    def get_dimension_name(self, axis):
        return self._names[axis]


class Network:
    def __init__(self, flags):
        self.flags = flags
        self.graph = {"inputs": {}, "outputs": {}}

    num_inputs = property(lambda self: len(self.graph["inputs"]))
    num_outputs = property(lambda self: len(self.graph["outputs"]))
    num_layers = property(lambda self: self.graph.get("layers", len(self.graph.get("kinds", [1]))))

    def get_layer(self, index):
        kind = self.graph.get("kinds", ["CONVOLUTION"])[index]
        return SimpleNamespace(name=f"/{kind.lower()}_{index}", type=LayerType[kind])

    def get_input(self, index):
        return Tensor(*list(self.graph["inputs"].items())[index])

    def get_output(self, index):
        return Tensor(*list(self.graph["outputs"].items())[index])


class ParserError:
    def __init__(self, row):
        self.row = row

    def code(self):
        return "ErrorCode.UNSUPPORTED_NODE"

    def desc(self):
        return self.row["desc"]

    def node_name(self):
        return self.row.get("node", "")


if KIND != "bare":
    ParserError.node_operator = lambda self: self.row.get("op", "")


class OnnxParser:
    def __init__(self, network, logger):
        self.network = network

    def parse_from_file(self, path):
        self.network.graph = json.loads(Path(path).read_text(encoding="utf-8"))
        if self.network.flags:
            self.network.graph.update(self.network.graph.get("strongly", {}))
        return "errors" not in self.network.graph

    num_errors = property(lambda self: len(self.network.graph["errors"]))

    def get_error(self, index):
        return ParserError(self.network.graph["errors"][index])


class TimingCache:
    def __init__(self, data):
        self.data = bytes(data)

    def serialize(self):
        return self.data + b"+timed"


class Config:
    def __init__(self):
        self.told = {"flags": [], "pools": {}, "profiles": []}
        self.profiling_verbosity = ProfilingVerbosity.NONE
        self.default_device_type = DeviceType.GPU
        self.cache = None

    def set_flag(self, flag):
        self.told["flags"].append(flag.name)

    def set_memory_pool_limit(self, pool, size):
        self.told["pools"][pool.name] = size

    def create_timing_cache(self, data):
        return None if data.startswith(b"other gpu") else TimingCache(data)

    def set_timing_cache(self, cache, ignore_mismatch):
        self.cache = cache
        return not cache.data.startswith(b"mismatch")

    def get_timing_cache(self):
        return self.cache

    def add_optimization_profile(self, profile):
        self.told["profiles"].append(profile.shapes)
        return -1 if "refused" in profile.shapes else 0


class OptimizationProfile:
    def __init__(self):
        self.shapes = {}

    def set_shape(self, name, low, usual, high):
        self.shapes[name] = [list(low), list(usual), list(high)]


def _hang():
    Path(os.environ["FAKE_TENSORRT_PID"]).write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(60)


def _crash():
    os.kill(os.getpid(), signal.SIGSEGV)


class Builder:
    def __init__(self, logger):
        self.logger = logger

    num_DLA_cores = int(os.environ.get("FAKE_TENSORRT_DLA", "0"))  # noqa: N815 -- TensorRT's own

    def create_network(self, flags):
        return Network(flags)

    def create_builder_config(self):
        return Config()

    def create_optimization_profile(self):
        return OptimizationProfile()

    def build_serialized_network(self, network, config):
        graph = network.graph
        for severity, message in graph.get("log", ()):
            self.logger.log(severity, message)
        outcome = graph.get("outcome", "built")
        if outcome != "built":
            return {"none": lambda: None, "crash": _crash, "hang": _hang}[outcome]()
        told = dict(config.told)
        told["network_flags"] = network.flags
        told["verbosity"] = config.profiling_verbosity.name
        told["device"] = config.default_device_type.name
        for name in ("builder_optimization_level", "hardware_compatibility_level", "DLA_core"):
            value = getattr(config, name, None)
            told[name] = getattr(value, "name", value)
        return HEADER + json.dumps({"graph": graph, "told": told}).encode()


# ----------------------------------------------------------------------------------------------- runtime


class Runtime:
    host_code: bool | None = None
    core: int | None = None

    def __init__(self, logger):
        self.logger = logger
        self.DLA_core = -1
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, plan):
        graph = json.loads(bytes(plan)[64:])["graph"]
        Runtime.host_code = self.engine_host_code_allowed
        Runtime.core = self.DLA_core
        if graph.get("unloadable"):
            self.logger.log(ILogger.ERROR, graph["unloadable"])
            return None
        return Engine(graph, self.logger)


class RuntimeCache:
    """Holds one word for each shape that was compiled."""

    def __init__(self):
        self.words = []

    def deserialize(self, blob):
        if not bytes(blob).startswith(b"cache:"):
            return False
        self.words = bytes(blob)[6:].split()
        return True

    def serialize(self):
        return b"cache:" + b" ".join(self.words)


class RuntimeConfig:
    def __init__(self):
        self.allocation, self.cache = ExecutionContextAllocationStrategy.STATIC, None
        if KIND == "rtx":
            self.create_runtime_cache = RuntimeCache

    def set_execution_context_allocation_strategy(self, strategy):
        self.allocation = strategy

    def set_runtime_cache(self, cache):
        self.cache = cache
        return True


class IProfiler:
    def __init__(self):
        self.made = True


class Engine:
    def __init__(self, graph, logger):
        self.graph, self.logger = graph, logger
        self.rows = {**graph["inputs"], **graph["outputs"]}
        self.device_memory_size_v2 = graph.get("workspace", 256)
        if KIND != "bare":
            self.create_runtime_config = RuntimeConfig

    num_io_tensors = property(lambda self: len(self.rows))

    def get_tensor_name(self, index):
        return list(self.rows)[index]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name in self.graph["inputs"] else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return DataType[self.rows[name].get("dtype", "FLOAT")]

    def get_tensor_shape(self, name):
        return self.rows[name]["shape"]

    def get_tensor_location(self, name):
        return TensorLocation[self.rows[name].get("location", "DEVICE")]

    def get_tensor_profile_shape(self, name, index):
        shape, most = self.rows[name]["shape"], self.rows[name].get("most", 4)
        return [[size if dim < 0 else dim for dim in shape] for size in (1, 2, most)]

    def create_execution_context(self, told):
        config = told if isinstance(told, RuntimeConfig) else None
        strategy = told if config is None else config.allocation
        assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        return None if self.graph.get("no_context") else Context(self, config)

    def create_engine_inspector(self):
        return SimpleNamespace(get_engine_information=lambda form: self.graph["inspector"])


class Context:
    """Doubles x; what it needs of its workspace it writes there, so memory that is gone is found."""

    last: Context

    def __init__(self, engine, config):
        self.engine, self.config = engine, config
        self.shapes, self.addresses = {}, {}
        self.workspace, self.ran = 0, None
        self.profiler = None
        Context.last = self
        if KIND == "rtx":
            self.is_stream_capturable = lambda stream: not engine.graph.get("uncapturable")

    def set_device_memory(self, memory, size):
        assert size == self.engine.device_memory_size_v2
        self.workspace = memory

    def set_input_shape(self, name, shape):
        self.shapes[name] = tuple(shape)
        return not self.engine.graph.get("refuse_shape")

    def infer_shapes(self):
        return self.engine.graph.get("unset", [])

    def get_tensor_shape(self, name):
        (batch, *_) = next(iter(self.shapes.values()))
        declared = self.engine.rows[name]["shape"]
        if self.engine.graph.get("data_dependent"):
            return declared
        return [batch if dim < 0 else dim for dim in declared]

    def set_tensor_address(self, name, pointer):
        assert pointer
        self.addresses[name] = pointer
        return not self.engine.graph.get("refuse_address")

    def execute_async_v3(self, stream):
        import fake_cuda

        if self.engine.graph.get("fails"):
            self.engine.logger.log(ILogger.ERROR, self.engine.graph["fails"])
            return False
        cuda = fake_cuda.FakeCuda.current
        if stream in cuda.captures:
            assert self.ran == self.shapes, "a context runs once at its shapes before it is captured"
            if self.engine.graph.get("control_flow"):
                self.engine.logger.log(ILogger.ERROR, "no control flow in graphs")
                return False
        self.ran = dict(self.shapes)
        if self.config is not None and self.config.cache is not None:
            self.config.cache.words.append(str(self.shapes).replace(" ", "").encode())
        source, target = (self.addresses[name] for name in ("x", "y"))
        (shape, *_) = self.shapes.values()
        workspace = self.workspace

        def run():
            count = int(np.prod(shape))
            if workspace:
                cuda.at(workspace)[:] = 1
            _floats(cuda.at(target))[:count] = _floats(cuda.at(source))[:count] * 2

        cuda.enqueue(stream, run, (source, target, *([workspace] if workspace else [])))
        if self.profiler is not None:
            cuda.sync(stream)
            for layer, ms in (("double", 0.75), ("copy", 0.25)):
                self.profiler.report_layer_time(layer, ms)
        return True


def _floats(block):
    return block[: len(block) // 4 * 4].view(np.float32)
