"""An engine file, deserialised, and its execution contexts: all that is asked of TensorRT while running.

What the flavours and their versions lack is found with `hasattr`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from mmtrt.errors import InputError, MachineError, MeasurementError, ModelError
from mmtrt.runtimes.engines.runtime_cache import RuntimeCache, open_cache
from mmtrt.runtimes.tensorrt_api import (
    LABELS,
    FlavourName,
    Log,
    check_digest,
    check_dtype,
    flavour_of,
    import_flavour,
    listening,
    logger_of,
    manifest_data,
    numpy_dtype,
)
from mmtrt.tensors import ShapeRange, TensorSpec

__all__ = ["Checked", "Context", "Plan", "Shapes", "checked_engine", "open_plan"]

Shapes = tuple[tuple[int, ...], ...]
"""One shape for each input, or each output, in the engine's order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """An engine whose bytes are those of its manifest, where it has one.

    They were read once: whoever replaces the file after that changes nothing.
    """

    path: Path
    data: bytes
    digest: str
    flavour: FlavourName
    manifest: Mapping[str, Any] | None


@dataclass(slots=True, kw_only=True)
class Plan:
    """An engine on the device; `ranges` are those of its inputs, `label` names flavour and version.

    `workspace_bytes` is the memory that a context needs while it runs. Contexts that never run at once may share it.
    `compiled` is what a just-in-time flavour has compiled, and `cache` its file; None with the others.
    """

    path: Path
    api: Any
    engine: Any
    config: Any
    label: str
    gpu_name: str
    manifest: Mapping[str, Any] | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ranges: Mapping[str, ShapeRange]
    workspace_bytes: int
    compiled: Any
    cache: RuntimeCache | None
    making: threading.Lock = field(default_factory=threading.Lock)

    @property
    def runs(self) -> str:
        """What runs, and where: `TensorRT-RTX 1.7.1.116 on NVIDIA H200`."""
        return f"{self.label} on {self.gpu_name}"

    @property
    def precision(self) -> str:
        """The precision that its manifest tells of; empty without one."""
        return str((self.manifest or {}).get("precision", ""))

    def context(self, workspace: int) -> Context:
        """Return a new execution context over memory of `workspace_bytes`; MachineError where there is no room."""
        # TensorRT does not say that several threads may make contexts of one engine at once.
        with self.making, listening(self.api) as log:
            context = _new_context(self.api, self.engine, self.config)
            if context is None:
                raise _not_loaded(self.path, self.label, self.gpu_name, self.manifest, log.last_errors())
        if self.workspace_bytes:
            context.set_device_memory(workspace, self.workspace_bytes)
        return Context(plan=self, raw=context)

    def close(self) -> None:
        """Let TensorRT free it, whoever still holds this: TensorRT's objects go with the last name of theirs."""
        self.engine = self.config = self.compiled = None

    def keep_cache(self) -> None:
        """Write what the runtime compiled to disk, where the flavour can give it and a context has run."""
        if self.cache is not None and hasattr(self.compiled, "serialize"):
            try:
                data = bytes(self.compiled.serialize())
            except RuntimeError as error:
                self.cache.notes.append(f"what was compiled can't be kept: {error}")
            else:
                self.cache.save(data)


@dataclass(slots=True, kw_only=True)
class Context:
    """An execution context: used by one thread at a time, and not at all after `close`.

    Whatever TensorRT refuses is a MeasurementError with TensorRT's reasons.
    """

    plan: Plan
    raw: Any
    shapes: Shapes | None = None
    made: Shapes = ()

    def close(self) -> None:
        """Let TensorRT free it; its memory may be freed after that."""
        self.raw = None

    def set_shapes(self, shapes: Shapes) -> Shapes:
        """Set the shapes of the inputs; return those of the outputs. ModelError where they depend on the data."""
        if shapes == self.shapes:
            return self.made
        self.shapes = None
        with self._listening() as log:
            for spec, shape in zip(self.plan.inputs, shapes, strict=True):
                if not self.raw.set_input_shape(spec.name, shape):
                    raise self._failed(f"TensorRT refuses shape {shape} for {spec.name!r}", log)
            missing = self.raw.infer_shapes()
            if missing:
                raise self._failed(f"TensorRT can't tell the output shapes: {', '.join(missing)} is not set", log)
        self.made = tuple(self._made_shape(spec.name) for spec in self.plan.outputs)
        self.shapes = shapes
        return self.made

    def _made_shape(self, name: str) -> tuple[int, ...]:
        shape = tuple(int(size) for size in self.raw.get_tensor_shape(name))
        if min(shape, default=0) < 0:
            raise ModelError(
                f"the shape of output {name!r} depends on the data: {shape}",
                fix="Give it a fixed size in the model: pad it, and return how much of it counts.",
            )
        return shape

    def place(self, addresses: Mapping[str, int]) -> None:
        """Tell where each tensor lies on the device."""
        with self._listening() as log:
            for name, address in addresses.items():
                if not self.raw.set_tensor_address(name, address):
                    raise self._failed(f"TensorRT refuses the memory of {name!r}", log)

    def enqueue(self, stream: int) -> None:
        """Start to compute; shapes and addresses are set."""
        with self._listening() as log:
            if not self.raw.execute_async_v3(stream):
                raise self._failed("TensorRT failed to run the engine", log)

    def capturable(self, stream: int) -> bool:
        """Tell whether a graph may be made of it; flavours that can't tell are tried."""
        return not hasattr(self.raw, "is_stream_capturable") or bool(self.raw.is_stream_capturable(stream))

    @contextmanager
    def profiling(self) -> Iterator[list[tuple[str, float]]]:
        """Give a list to which each run adds `(layer, ms)` of each layer; runs are slower meanwhile."""
        told: list[tuple[str, float]] = []
        self.raw.profiler = _profiler_of(self.plan.api, lambda name, ms: told.append((name, ms)))
        yield told

    @contextmanager
    def _listening(self) -> Iterator[Log]:
        with listening(self.plan.api) as log:
            try:
                yield log
            except RuntimeError as error:
                raise self._failed(str(error), log) from error

    def _failed(self, what: str, log: Log) -> MeasurementError:
        return MeasurementError(f"{self.plan.path}: {what}\n{log.last_errors()}".rstrip())


def _profiler_of(api: Any, told: Callable[[str, float], None]) -> Any:
    class Profiler(api.IProfiler):
        def __init__(self) -> None:
            api.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            """Called once for each layer of each run."""
            told(layer_name, ms)

    return Profiler()


# --------------------------------------------------------------------------------------------- loading


def checked_engine(path: Path) -> Checked:
    """Look at an engine's file and manifest; InputError for a file that is no engine or was altered."""
    flavour = flavour_of(path)
    manifest = manifest_data(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"can't read the engine {path}: {error.strerror}", fix="Check the path.") from error
    digest = sha256(data).hexdigest()
    if manifest is not None:
        # Deserialising runs native code: first prove that it is the engine that was built.
        check_digest(path, str((manifest.get("engine") or {}).get("sha256")), found=digest)
    return Checked(path=path, data=data, digest=digest, flavour=flavour, manifest=manifest)


def open_plan(checked: Checked, gpu_name: str, *, cached: bool = True, cache_folder: Path | None = None) -> Plan:
    """Load an engine onto the current device.

    MachineError where this machine can't: no package, another version, another GPU. `cached` keeps what a
    just-in-time flavour compiles on disk, in `cache_folder` rather than in mmtrt's own cache.
    """
    path, flavour, manifest = checked.path, checked.flavour, checked.manifest
    api = import_flavour(flavour)
    label = f"{LABELS[flavour]} {api.__version__}"
    with listening(api) as log:
        engine = _deserialise(checked.data, api, manifest)
        if engine is None:
            raise _not_loaded(path, label, gpu_name, manifest, log.last_errors())
    specs: dict[str, list[TensorSpec]] = {"INPUT": [], "OUTPUT": []}
    for spec, mode in _specs(path, api, engine, manifest):
        specs[mode].append(spec)
    config = _runtime_config(api, engine)
    jit = cached and config is not None and hasattr(config, "create_runtime_cache")
    cache = open_cache(checked.digest, f"{api.__version__} {gpu_name}", cache_folder) if jit else None
    return Plan(
        path=path,
        api=api,
        engine=engine,
        config=config,
        label=label,
        gpu_name=gpu_name,
        manifest=manifest,
        inputs=tuple(specs["INPUT"]),
        outputs=tuple(specs["OUTPUT"]),
        ranges={spec.name: _range(engine, spec.name) for spec in specs["INPUT"]},
        workspace_bytes=int(engine.device_memory_size_v2),
        compiled=None if config is None or cache is None else _compiled(config, cache),
        cache=cache,
    )


def _deserialise(data: bytes, api: Any, manifest: Mapping[str, Any] | None) -> Any:
    runtime = api.Runtime(logger_of(api))
    options = (manifest or {}).get("options") or {}
    if options.get("version_compatible") and hasattr(runtime, "engine_host_code_allowed"):
        # Such an engine brings its own small runtime; its digest was checked above.
        runtime.engine_host_code_allowed = True
    core = options.get("dla_core")
    if isinstance(core, int):
        # The plan does not say which one it was built for.
        runtime.DLA_core = core
    return runtime.deserialize_cuda_engine(data)


def _runtime_config(api: Any, engine: Any) -> Any:
    """Return how contexts are to run; None where the release has no such thing."""
    if not hasattr(engine, "create_runtime_config"):
        return None
    config = engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(api.ExecutionContextAllocationStrategy.USER_MANAGED)
    strategies = getattr(api, "DynamicShapesKernelSpecializationStrategy", None)
    if strategies is not None:
        # The lazy one runs a fallback kernel until its compiler is done: times would mean nothing.
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
    graphs = getattr(api, "CudaGraphStrategy", None)
    if graphs is not None:
        # The lanes keep graphs of their own, with the copies in them.
        config.cuda_graph_strategy = graphs.DISABLED
    return config


def _compiled(config: Any, cache: RuntimeCache) -> Any:
    """Return what a just-in-time flavour compiles, with what is on disk in it; None with the others."""
    if not hasattr(config, "create_runtime_cache"):
        return None
    compiled = config.create_runtime_cache()
    data = cache.load()
    if data:
        try:
            taken = compiled.deserialize(data)
        except RuntimeError:
            taken = False
        if not taken:
            cache.notes.append(f"{cache.file} is broken or of another driver, and is not used")
    config.set_runtime_cache(compiled)
    return compiled


def _new_context(api: Any, engine: Any, config: Any) -> Any:
    if config is None:
        return engine.create_execution_context(api.ExecutionContextAllocationStrategy.USER_MANAGED)
    return engine.create_execution_context(config)


def _not_loaded(
    path: Path, label: str, gpu_name: str, manifest: Mapping[str, Any] | None, reasons: str
) -> MachineError:
    told = manifest or {}
    built_on = (told.get("gpu") or {}).get("name")
    by = " ".join(str(told[key]) for key in ("flavor", "flavor_version") if key in told)
    built = f"It was built with {by}" if by else "Nothing is known of it"
    where = f" on {built_on}" if built_on else ""
    return MachineError(
        f"{label} can't load {path.name} on {gpu_name}:\n{reasons or 'it gave no reason'}",
        fix=f"{built}{where}. Build it again on this machine, from its ONNX.",
    )


def _specs(path: Path, api: Any, engine: Any, manifest: Mapping[str, Any] | None) -> Iterator[tuple[TensorSpec, str]]:
    """Yield each tensor with its mode; the manifest knows the names of dynamic sizes."""
    told = {row["name"]: row["shape"] for key in ("inputs", "outputs") for row in (manifest or {}).get(key) or ()}
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
