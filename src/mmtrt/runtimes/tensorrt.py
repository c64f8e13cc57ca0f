"""Runs an engine of either flavour: shapes checked, memory kept from call to call, all of it given back."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mmtrt.errors import InputError, MachineError, MeasurementError, ModelError
from mmtrt.runtimes.checks import check_feeds
from mmtrt.runtimes.cuda import Cuda, gpu, open_cuda
from mmtrt.runtimes.cuda.buffers import Buffer
from mmtrt.runtimes.tensorrt_api import (
    LABELS,
    FlavourName,
    check_digest,
    check_dtype,
    flavour_of,
    import_flavour,
    listening,
    logger_of,
    manifest_data,
    numpy_dtype,
)
from mmtrt.tensors import Array, Feeds, ShapeRange, TensorSpec

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["TensorRTRunner", "Transfers"]

Transfers = Literal["included", "excluded"]
"""Whether a measured time holds the copies between host and device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """An engine on the device; `ranges` are those of its inputs."""

    api: Any
    runs: str
    cuda: Cuda
    context: Any
    stream: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ranges: Mapping[str, ShapeRange]
    buffers: Mapping[str, Buffer]


class TensorRTRunner:
    """Fulfils `mmtrt.runtimes.Runner` for a plan file of TensorRT or TensorRT-RTX.

    Entering raises InputError for a file that is no engine or was altered, and MachineError where this
    machine can't load it: no GPU, no package, another version, another GPU.
    """

    def __init__(self, engine: Path, *, device: Callable[[], Cuda] = open_cuda) -> None:
        self._path = engine
        self._device = device
        self._stack = ExitStack()
        self._loaded: _Loaded | None = None

    @property
    def runs(self) -> str:
        """The flavour, its version and the GPU: `TensorRT-RTX 1.7.1.116 on NVIDIA H200`."""
        return self._open.runs

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs, in the engine's order."""
        return self._open.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs, in the engine's order."""
        return self._open.outputs

    @property
    def _open(self) -> _Loaded:
        if self._loaded is None:
            raise RuntimeError("the runner is used outside its with-block")
        return self._loaded

    def __enter__(self) -> Self:
        flavour = flavour_of(self._path)
        manifest = manifest_data(self._path)
        if manifest is not None:
            # Deserialising runs native code: first prove that it is the engine that was built.
            check_digest(self._path, str(manifest.get("engine", {}).get("sha256")))
        with ExitStack() as stack:
            cuda = self._device()
            stack.callback(cuda.close)
            api = import_flavour(flavour)
            stack.callback(self._forget)
            self._loaded = _load(self._path, flavour, api, cuda, manifest, stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _forget(self) -> None:
        # TensorRT's objects free themselves when the last name of theirs goes.
        self._loaded = None

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        """Run once; InputError names an input outside the engine's range, with its axis and the range."""
        loaded = self._open
        with listening(loaded.api) as log:
            try:
                shapes = _prepare(loaded, feeds)
                _upload(loaded)
                _enqueue(loaded)
                _download(loaded)
                loaded.cuda.sync(loaded.stream)
            except _RunError as error:
                raise self._failed(error, log.last_errors()) from error
        return {spec.name: loaded.buffers[spec.name].read(spec.dtype, shapes[spec.name]) for spec in loaded.outputs}

    def measure(self, feeds: Feeds, *, iterations: int, transfers: Transfers) -> tuple[float, ...]:
        """Return the device's time of each of `iterations` runs of the same inputs, in ms, by CUDA events.

        Runs follow one another, each begun when the one before has ended. There is no warm-up: call it
        before, with the same shapes. `included` times the copies of all inputs and outputs too.
        """
        loaded = self._open
        steps = {"excluded": (_enqueue,), "included": (_upload, _enqueue, _download)}[transfers]
        with listening(loaded.api) as log:
            try:
                _prepare(loaded, feeds)
                _upload(loaded)
                with _events(loaded.cuda) as (start, stop):
                    return tuple(_timed(loaded, steps, start, stop) for _ in range(iterations))
            except _RunError as error:
                raise self._failed(error, log.last_errors()) from error

    def _failed(self, error: _RunError, reasons: str) -> MeasurementError:
        return MeasurementError(f"{self._path}: {error}\n{reasons}".rstrip())


class _RunError(Exception):
    """TensorRT refused a call; its logger knows why."""


# --------------------------------------------------------------------------------------------- loading


def _load(
    path: Path,
    flavour: FlavourName,
    api: Any,
    cuda: Cuda,
    manifest: Mapping[str, Any] | None,
    stack: ExitStack,
) -> _Loaded:
    """Load an engine; what must be given back is put on the stack."""
    device = gpu()
    name = device.name if device else "an unknown GPU"
    with listening(api) as log:
        engine = _deserialise(path, api, manifest)
        context = None if engine is None else _context(api, engine)
        if context is None:
            raise _not_loaded(path, f"{LABELS[flavour]} {api.__version__}", name, manifest, log.last_errors())
    specs: dict[str, list[TensorSpec]] = {"INPUT": [], "OUTPUT": []}
    for spec, mode in _specs(path, api, engine, manifest):
        specs[mode].append(spec)
    stream = cuda.create_stream()
    stack.callback(cuda.destroy_stream, stream)
    buffers = {}
    for spec in (*specs["INPUT"], *specs["OUTPUT"]):
        buffers[spec.name] = Buffer(cuda)
        stack.callback(buffers[spec.name].free)
    stack.callback(_settle, cuda, stream)
    return _Loaded(
        api=api,
        runs=f"{LABELS[flavour]} {api.__version__} on {name}",
        cuda=cuda,
        context=context,
        stream=stream,
        inputs=tuple(specs["INPUT"]),
        outputs=tuple(specs["OUTPUT"]),
        ranges={spec.name: _range(engine, spec.name) for spec in specs["INPUT"]},
        buffers=buffers,
    )


def _deserialise(path: Path, api: Any, manifest: Mapping[str, Any] | None) -> Any:
    runtime = api.Runtime(logger_of(api))
    options = (manifest or {}).get("options") or {}
    if options.get("version_compatible") and hasattr(runtime, "engine_host_code_allowed"):
        # Such an engine brings its own small runtime; its digest was checked above.
        runtime.engine_host_code_allowed = True
    return runtime.deserialize_cuda_engine(path.read_bytes())


def _context(api: Any, engine: Any) -> Any:
    if not hasattr(engine, "create_runtime_config"):
        return engine.create_execution_context()
    config = engine.create_runtime_config()
    strategies = getattr(api, "DynamicShapesKernelSpecializationStrategy", None)
    if strategies is not None:
        # The lazy one runs a fallback kernel until its compiler is done: times would mean nothing.
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
    return engine.create_execution_context(config)


def _not_loaded(
    path: Path, label: str, gpu_name: str, manifest: Mapping[str, Any] | None, reasons: str
) -> MachineError:
    told = manifest or {}
    built_on = (told.get("gpu") or {}).get("name")
    built = f"It was built with {told['flavor']} {told['flavor_version']}" if told else "Nothing is known of it"
    where = f" on {built_on}" if built_on else ""
    return MachineError(
        f"{label} can't load {path.name} on {gpu_name}:\n{reasons or 'it gave no reason'}",
        fix=f"{built}{where}. Build it again on this machine, from its ONNX.",
    )


def _specs(path: Path, api: Any, engine: Any, manifest: Mapping[str, Any] | None) -> Iterator[tuple[TensorSpec, str]]:
    """Yield each tensor with its mode; the manifest knows the names of dynamic sizes."""
    told = {row["name"]: row["shape"] for key in ("inputs", "outputs") for row in (manifest or {}).get(key, ())}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        if engine.get_tensor_location(name) != api.TensorLocation.DEVICE:
            raise ModelError(f"{path}: {name!r} lies on the host: it holds shapes, which mmtrt does not feed")
        shape = tuple(engine.get_tensor_shape(name))
        names = told.get(name, ())
        dims = tuple(
            dim if dim >= 0 else str(names[axis]) if len(names) == len(shape) else f"{name}_{axis}"
            for axis, dim in enumerate(shape)
        )
        dtype = numpy_dtype(engine.get_tensor_dtype(name))
        check_dtype(dtype, f"{path}: {name!r}")
        yield TensorSpec(name=name, dtype=dtype, shape=dims), engine.get_tensor_mode(name).name


def _range(engine: Any, name: str) -> ShapeRange:
    low, usual, high = (tuple(shape) for shape in engine.get_tensor_profile_shape(name, 0))
    return ShapeRange(min=low, opt=usual, max=high)


def _settle(cuda: Cuda, stream: int) -> None:
    # After an error copies may still be under way; their own errors were told already.
    with contextlib.suppress(MachineError):
        cuda.sync(stream)


# --------------------------------------------------------------------------------------------- running


def _prepare(loaded: _Loaded, feeds: Feeds) -> dict[str, tuple[int, ...]]:
    """Check the inputs, set shapes and addresses; return the shapes of the outputs."""
    check_feeds(feeds, loaded.inputs)
    context = loaded.context
    for spec in loaded.inputs:
        array = feeds[spec.name]
        _check_range(spec.name, array.shape, loaded.ranges[spec.name])
        loaded.buffers[spec.name].write(array)
        if not context.set_input_shape(spec.name, array.shape):
            raise _RunError(f"TensorRT refuses shape {array.shape} for {spec.name!r}")
    missing = context.infer_shapes()
    if missing:
        raise _RunError(f"TensorRT can't tell the output shapes: {', '.join(missing)} is not set")
    shapes = {}
    for spec in loaded.outputs:
        shape = shapes[spec.name] = tuple(context.get_tensor_shape(spec.name))
        if min(shape, default=0) < 0:
            raise ModelError(
                f"the shape of output {spec.name!r} depends on the data: {shape}",
                fix="Give it a fixed size in the model: pad it, and return how much of it counts.",
            )
        loaded.buffers[spec.name].resize(math.prod(shape) * np.dtype(spec.dtype).itemsize)
    for name, buffer in loaded.buffers.items():
        if not context.set_tensor_address(name, buffer.pointer):
            raise _RunError(f"TensorRT refuses the memory of {name!r}")
    return shapes


def _check_range(name: str, shape: tuple[int, ...], span: ShapeRange) -> None:
    for axis, (low, size, high) in enumerate(zip(span.min, shape, span.max, strict=True)):
        if not low <= size <= high:
            raise InputError(
                f"input {name!r} has size {size} on axis {axis}, the engine takes {low} to {high}",
                fix="Feed a size in that range, or build the engine with a wider one.",
            )


def _upload(loaded: _Loaded) -> None:
    for spec in loaded.inputs:
        loaded.buffers[spec.name].upload(loaded.stream)


def _enqueue(loaded: _Loaded) -> None:
    if not loaded.context.execute_async_v3(loaded.stream):
        raise _RunError("TensorRT failed to run the engine")


def _download(loaded: _Loaded) -> None:
    for spec in loaded.outputs:
        loaded.buffers[spec.name].download(loaded.stream)


@contextlib.contextmanager
def _events(cuda: Cuda) -> Iterator[tuple[int, int]]:
    with ExitStack() as stack:
        pair = []
        for _ in range(2):
            pair.append(cuda.create_event())
            stack.callback(cuda.destroy_event, pair[-1])
        yield pair[0], pair[1]


def _timed(loaded: _Loaded, steps: tuple[Callable[[_Loaded], None], ...], start: int, stop: int) -> float:
    loaded.cuda.record(start, loaded.stream)
    for step in steps:
        step(loaded)
    loaded.cuda.record(stop, loaded.stream)
    loaded.cuda.sync(loaded.stream)
    return loaded.cuda.elapsed_ms(start, stop)
