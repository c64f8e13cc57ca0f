"""mmtrt's benchmark against the same engine timed by bare CUDA events: nothing of mmtrt's runtime is in the second.

The bare side takes TensorRT's own API and the CUDA driver's: a context, addresses, one captured graph of the engine
alone, an event before and after. Both sides in turn, in one process; the ratio of their medians should be 1 within a
hundredth.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from step import asked, drawn_feeds, finish, tried, usual

import mmtrt
from mmtrt.bench.statistics import percentile
from mmtrt.runtimes.tensorrt import TensorRTRunner
from mmtrt.runtimes.tensorrt_api import flavour_of, import_flavour, logger_of
from mmtrt.tensors import Feeds

RUNS, ROUNDS = 100, 10


def main() -> None:
    """Compare on every FP16 engine that is there."""
    given = asked()
    rows: dict[str, Any] = {}
    for model, engines in given.engines("fp16").items():
        if given.left_s > 5:
            rows[model] = tried(partial(_compare, engines["fp16"]))
            given.write({"rows": rows})
    finish(rows)


def _compare(engine: Path) -> dict[str, Any]:
    ours: list[float] = []
    bare: list[float] = []
    with mmtrt.Session(str(engine)) as session:
        feeds = drawn_feeds(session, usual(session))
    with (
        TensorRTRunner(engine) as runner,
        runner.timed(feeds, cuda_graph=True, transfers=False) as timed,
        _bare(engine, feeds) as once,
    ):
        for _ in range(RUNS):
            timed.once()
            once()
        for _ in range(ROUNDS):
            ours += [timed.once().latency_ms for _ in range(RUNS)]
            bare += [once() for _ in range(RUNS)]
        ratio = percentile(ours, 50) / percentile(bare, 50)
        return {
            "mmtrt_p50_ms": percentile(ours, 50),
            "bare_p50_ms": percentile(bare, 50),
            "ratio": ratio,
            "within_1_percent": abs(ratio - 1) <= 0.01,
            "cuda_graph": timed.cuda_graph,
            "n": len(ours),
        }


@contextlib.contextmanager
def _bare(path: Path, feeds: Feeds) -> Iterator[Callable[[], float]]:
    """Give a function that replays the engine once and returns the time between two events, in ms."""
    from cuda.bindings import driver

    def call(function: str, *args: Any) -> Any:
        error, *values = getattr(driver, function)(*args)
        if int(error):
            raise RuntimeError(f"{function}: {error}")
        return values[0] if values else None

    api = import_flavour(flavour_of(path))
    engine = api.Runtime(logger_of(api)).deserialize_cuda_engine(path.read_bytes())
    context = _context(api, engine)
    stream = call("cuStreamCreate", 1)
    kept = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        if name in feeds:
            context.set_input_shape(name, feeds[name].shape)
    context.infer_shapes()
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        dtype = feeds[name].dtype if name in feeds else np.dtype(np.float64)
        nbytes = max(1, int(np.prod(tuple(context.get_tensor_shape(name)))) * dtype.itemsize)
        kept.append(call("cuMemAlloc", nbytes))
        if name in feeds:
            call("cuMemcpyHtoD", kept[-1], feeds[name].ctypes.data, feeds[name].nbytes)
        context.set_tensor_address(name, int(kept[-1]))
    context.execute_async_v3(int(stream))
    call("cuStreamSynchronize", stream)
    call("cuStreamBeginCapture", stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
    context.execute_async_v3(int(stream))
    graph = call("cuStreamEndCapture", stream)
    replay = call("cuGraphInstantiate", graph, 0)
    start, stop = call("cuEventCreate", 0), call("cuEventCreate", 0)

    def once() -> float:
        call("cuEventRecord", start, stream)
        call("cuGraphLaunch", replay, stream)
        call("cuEventRecord", stop, stream)
        call("cuStreamSynchronize", stream)
        return float(call("cuEventElapsedTime", start, stop))

    yield once
    del context, engine
    for pointer in kept:
        call("cuMemFree", pointer)


def _context(api: Any, engine: Any) -> Any:
    if not hasattr(engine, "create_runtime_config"):
        return engine.create_execution_context()
    config = engine.create_runtime_config()
    # As mmtrt has it: the lazy strategy would put a fallback kernel into the graph.
    config.dynamic_shapes_kernel_specialization_strategy = api.DynamicShapesKernelSpecializationStrategy.EAGER
    return engine.create_execution_context(config)


if __name__ == "__main__":
    main()
