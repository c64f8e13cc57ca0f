"""The stand-in for TensorRT keeps TensorRT's rules: bound when enqueued, in stream order, captured only when ready."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorrt as trt
from emulated_gpu import Emulated
from engine_stand_in.plan import pack

onnx = pytest.importorskip("onnx")
driver = pytest.importorskip("cuda.bindings.driver")


class Logger(trt.ILogger):
    def __init__(self) -> None:
        super().__init__()
        self.errors: list[str] = []

    def log(self, severity: Any, msg: str) -> None:
        if severity == trt.ILogger.ERROR:
            self.errors.append(msg)


def call(function: str, *args: Any) -> Any:
    code, *values = getattr(driver, function)(*args)
    assert not int(code), f"{function}: {code.name}"
    return values[0] if values else None


def doubling() -> bytes:
    """An ONNX that doubles rows of 4."""
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"], name="double")],
        "doubling",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["rows", 4])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def plan(**told: Any) -> bytes:
    return pack(b"ftrt", doubling(), {"profile": {"x": [[1, 4], [2, 4], [8, 4]]}, **told})


@pytest.fixture
def stream() -> Iterator[int]:
    call("cuInit", 0)
    call("cuCtxSetCurrent", call("cuDevicePrimaryCtxRetain", 0))
    made = call("cuStreamCreate", 1)
    yield int(made)
    call("cuStreamDestroy", made)


@pytest.fixture
def logger() -> Logger:
    return Logger()


@pytest.fixture
def context(stream: int, logger: Logger) -> Any:
    return trt.Runtime(logger).deserialize_cuda_engine(plan()).create_execution_context()


class Rows:
    """Rows on the device, for the host to look at."""

    def __init__(self, emulated: Emulated, rows: int) -> None:
        self.pointer = int(call("cuMemAlloc", rows * 16))
        at = emulated.reach(self.pointer, rows * 16)
        assert at
        self.values = np.frombuffer((ctypes.c_uint8 * (rows * 16)).from_address(at), np.float32).reshape(rows, 4)


def bind(context: Any, *rows: Rows) -> None:
    context.set_input_shape("x", rows[0].values.shape)
    for name, held in zip("xy", rows, strict=True):
        assert context.set_tensor_address(name, held.pointer)


def test_what_is_run_is_bound_when_it_is_enqueued(context: Any, stream: int, emulated: Emulated) -> None:
    one, two, three = (Rows(emulated, 2) for _ in range(3))
    one.values[:] = 1
    emulated.spin(stream, 20)
    bind(context, one, two)
    assert context.execute_async_v3(stream)
    bind(context, one, three)
    three.values[:] = 0
    assert not (two.values == 2).all(), "nothing runs before what stands before it"
    call("cuStreamSynchronize", stream)
    assert (two.values == 2).all()
    assert (three.values == 0).all()


def test_a_captured_execution_keeps_its_shapes_and_addresses(context: Any, stream: int, emulated: Emulated) -> None:
    one, two, large, out = Rows(emulated, 2), Rows(emulated, 2), Rows(emulated, 8), Rows(emulated, 8)
    one.values[:] = 1
    bind(context, one, two)
    context.execute_async_v3(stream)
    call("cuStreamBeginCapture", stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
    assert context.execute_async_v3(stream)
    graph = call("cuStreamEndCapture", stream)
    ready = call("cuGraphInstantiate", graph, 0)
    bind(context, large, out)
    one.values[:] = 21
    call("cuGraphLaunch", ready, stream)
    call("cuStreamSynchronize", stream)
    assert (two.values == 42).all()
    call("cuGraphExecDestroy", ready)
    call("cuGraphDestroy", graph)


def test_the_first_run_at_a_shape_can_not_be_captured(
    context: Any, stream: int, emulated: Emulated, logger: Logger
) -> None:
    bind(context, Rows(emulated, 2), Rows(emulated, 2))
    call("cuStreamBeginCapture", stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
    assert not context.execute_async_v3(stream)
    assert "capturing" in logger.errors[-1]
    code = driver.cuStreamEndCapture(stream)[0]
    assert code == driver.CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
    assert context.execute_async_v3(stream)
    call("cuStreamSynchronize", stream)


def test_what_tensorrt_refuses_is_refused_with_a_reason(
    context: Any, stream: int, logger: Logger, emulated: Emulated
) -> None:
    rows = Rows(emulated, 2)
    assert not context.execute_async_v3(stream)
    assert "x is not set" in logger.errors[-1]
    assert not context.set_input_shape("x", (9, 4))
    assert not context.set_input_shape("z", (1, 4))
    assert context.set_input_shape("x", (2, 4))
    assert tuple(context.get_tensor_shape("y")) == (2, 4)
    assert not context.execute_async_v3(stream)
    assert "address of x" in logger.errors[-1]
    assert not context.set_tensor_address("x", rows.pointer + 4)
    assert trt.Runtime(logger).deserialize_cuda_engine(b"nothing") is None
    assert trt.Runtime(logger).deserialize_cuda_engine(plan()[:-1]) is None


def test_engines_and_contexts_take_memory_and_give_it_back(stream: int, logger: Logger, emulated: Emulated) -> None:
    before = emulated.live
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan())
    weights = emulated.live.device_bytes - before.device_bytes
    assert weights > 0
    context = engine.create_execution_context()
    assert emulated.live.device_bytes - before.device_bytes == weights + engine.device_memory_size_v2
    emulated.fail("cuMemAlloc", 2)
    assert engine.create_execution_context() is None
    assert "OutOfMemory" in logger.errors[-1]
    del context, engine
    assert emulated.live == before


def test_an_engine_may_do_nothing_or_take_a_while(stream: int, logger: Logger, emulated: Emulated) -> None:
    for work, least in (("none", 0.0), ("spin:5000000", 5.0)):
        context = trt.Runtime(logger).deserialize_cuda_engine(plan(work=work)).create_execution_context()
        one, two = Rows(emulated, 1), Rows(emulated, 1)
        two.values[:] = 9
        bind(context, one, two)
        start, stop = (call("cuEventCreate", 0) for _ in range(2))
        call("cuEventRecord", start, stream)
        assert context.execute_async_v3(stream)
        call("cuEventRecord", stop, stream)
        call("cuStreamSynchronize", stream)
        assert (two.values == 9).all()
        assert call("cuEventElapsedTime", start, stop) >= least
