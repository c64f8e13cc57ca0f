"""The builder's side of a build: what runs in its own process. `mmtrt.engine.build` is the other side."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mmtrt.artifacts import machine_errors, whole_file
from mmtrt.engine.dla import allow_precisions, place_on_dla, weakly_typed
from mmtrt.engine.layers import EngineLayer, parse_inspector, parse_layers
from mmtrt.engine.options import BuildOptions
from mmtrt.engine.profiles import NetworkTensor, check_profile, full_profile
from mmtrt.errors import BuildError, MachineError, ModelError, UsageError
from mmtrt.runtimes.tensorrt_api import (
    LABELS,
    FlavourName,
    Log,
    import_flavour,
    listening,
    logger_of,
    numpy_dtype,
)
from mmtrt.tensors import Profile, ShapeRange

__all__ = ["Built", "Job", "Refusal", "build", "parse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the builder's process is asked for; `plan` is where it writes the engine."""

    onnx: Path
    plan: Path
    flavour: FlavourName
    profile: Profile
    options: BuildOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One node that the parser refused, in the parser's words."""

    node: str
    operator: str
    code: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What came of a job: either `refusals`, or an engine at the job's `plan`; `layers` None where untold."""

    refusals: tuple[Refusal, ...] = ()
    inputs: tuple[NetworkTensor, ...] = ()
    outputs: tuple[NetworkTensor, ...] = ()
    profile: Mapping[str, ShapeRange] = field(default_factory=dict)
    build_s: float = 0.0
    layers: tuple[EngineLayer, ...] | None = None
    notes: tuple[str, ...] = ()


def parse(onnx: Path, flavour: FlavourName) -> tuple[Refusal, ...]:
    """Parse only; return the nodes that the parser refuses, none where it takes all."""
    api = import_flavour(flavour)
    with listening(api):
        network = api.Builder(logger_of(api)).create_network(_strong(api))
        return _parse(api, network, onnx)


def build(job: Job) -> Built:
    """Parse, check and build; errors are those of `mmtrt.engine.build.build_engine`."""
    api = import_flavour(job.flavour)
    with listening(api) as log, machine_errors("the engine"):
        first, *others = _typings(api, job)
        return _build_either(api, log, job) if others else _build(api, log, job, first)


Typed = Literal["strong", "weak"]


def _typings(api: Any, job: Job) -> tuple[Typed, ...]:
    """Return how the network is typed, what comes first first; UsageError where this TensorRT types strongly only."""
    wanted = job.options.typing
    weak = weakly_typed(api, job.flavour)
    if wanted == "weak" and not weak:
        raise UsageError(
            f"typing = 'weak' is not possible: this {LABELS[job.flavour]} is always strongly typed",
            fix="Leave the setting out.",
        )
    if not weak:
        return ("strong",)
    # These releases give the DLA its precision by a flag.
    if wanted == "weak" or job.options.dla_core is not None:
        return ("weak",)
    return ("strong", "weak") if wanted == "auto" else ("strong",)


def _build_either(api: Any, log: Log, job: Job) -> Built:
    try:
        built = _build(api, log, job, "strong")
        if not built.refusals:
            return built
        why = built.refusals[0].text
    except BuildError as error:
        why = error.message
    log.errors.clear()
    built = _build(api, log, job, "weak")
    note = f"built weakly typed, with FP16 and INT8 allowed, since strongly typed there was no engine: {why}"
    return replace(built, notes=(note, *built.notes))


def _build(api: Any, log: Log, job: Job, typed: Typed) -> Built:
    builder = api.Builder(logger_of(api))
    network = builder.create_network(_strong(api) if typed == "strong" else 0)
    refusals = _parse(api, network, job.onnx)
    if refusals:
        return Built(refusals=refusals)
    inputs = tuple(_tensor(network.get_input(i)) for i in range(network.num_inputs))
    outputs = tuple(_tensor(network.get_output(i)) for i in range(network.num_outputs))
    _check_network(network, outputs, job.onnx)
    check_profile(job.profile, inputs)
    config = builder.create_builder_config()
    notes = configure(api, config, job)
    if typed == "weak":
        allow_precisions(api, config, job.options)
    notes += place_on_dla(api, builder, network, config, job.flavour, job.options, job.profile)
    _set_profile(builder, config, job.profile)
    start = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    build_s = time.perf_counter() - start
    if plan is None:
        raise _build_error(log, job)
    with job.plan.open("wb") as stream:
        stream.write(plan)
    _save_timing_cache(config, job)
    layers, why = _layers(api, log, plan)
    return Built(
        inputs=inputs,
        outputs=outputs,
        profile=full_profile(job.profile, inputs),
        build_s=build_s,
        layers=layers,
        notes=(*notes, *why, *log.warnings),
    )


def _strong(api: Any) -> int:
    """Return the flags of a strongly typed network; where the flag is gone, there is no other kind."""
    flags = api.NetworkDefinitionCreationFlag
    return 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0


def _parse(api: Any, network: Any, onnx: Path) -> tuple[Refusal, ...]:
    parser = api.OnnxParser(network, logger_of(api))
    # The path, and not the bytes: weights may lie in a file beside it.
    if parser.parse_from_file(str(onnx)):
        return ()
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    refusals = tuple(
        Refusal(
            node=_of(error, "node_name"),
            operator=_of(error, "node_operator"),
            code=str(error.code()).rpartition(".")[2],
            text=error.desc(),
        )
        for error in errors
    )
    return refusals or (Refusal(node="", operator="", code="", text="the parser gave no reason"),)


def _of(error: Any, method: str) -> str:
    return str(getattr(error, method)()) if hasattr(error, method) else ""


def _tensor(tensor: Any) -> NetworkTensor:
    shape = tuple(
        dim if dim >= 0 else tensor.get_dimension_name(axis) or f"{tensor.name}_{axis}"
        for axis, dim in enumerate(tuple(tensor.shape))
    )
    return NetworkTensor(name=tensor.name, dtype=numpy_dtype(tensor.dtype), shape=shape)


def _check_network(network: Any, outputs: tuple[NetworkTensor, ...], onnx: Path) -> None:
    # Bytes that are no ONNX at all can parse without an error, into nothing.
    if not outputs or not network.num_layers:
        raise ModelError(f"{onnx} holds no graph: it is no ONNX file, or it is empty", fix="Export the model again.")
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if tensor.is_shape_tensor:
            raise ModelError(
                f"input {tensor.name!r} gives shapes inside the model, not data",
                fix="Make it a constant, or take the size from the shape of another input.",
            )


# -------------------------------------------------------------------------------------------- settings


def configure(api: Any, config: Any, job: Job) -> list[str]:
    """Set what the options ask for; return a note for each setting that this flavour has no use for."""
    options = job.options
    # The builder tells its final layers only so.
    config.profiling_verbosity = api.ProfilingVerbosity.DETAILED
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(api.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.version_compatible:
        config.set_flag(api.BuilderFlag.VERSION_COMPATIBLE)
        if job.flavour == "tensorrt-rtx":
            # Its wheel has no lean runtime to put into the engine.
            config.set_flag(api.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
    return [
        *_set_hardware(api, config, job),
        *_set_capability(api, config, job),
        *_load_timing_cache(config, job),
    ]


def _set_hardware(api: Any, config: Any, job: Job) -> list[str]:
    wanted = job.options.hardware_compatibility
    if wanted == "none":
        return []
    if job.flavour == "tensorrt-rtx":
        return [f"hardware_compatibility = {wanted!r} was passed by: TensorRT-RTX engines are portable by design"]
    level = getattr(getattr(api, "HardwareCompatibilityLevel", None), wanted.upper(), None)
    if level is None:
        raise UsageError(f"this TensorRT has no hardware compatibility {wanted!r}", fix="Use 'none'.")
    config.hardware_compatibility_level = level
    return []


def _set_capability(api: Any, config: Any, job: Job) -> list[str]:
    wanted = job.options.compute_capability
    if wanted is None:
        return []
    if not hasattr(config, "set_compute_capability"):
        return [f"compute_capability = {wanted!r} was passed by: TensorRT builds for the GPU it runs on"]
    known = [name for name in dir(api.ComputeCapability) if name.startswith("SM") or name == "CURRENT"]
    if wanted not in known:
        raise UsageError(f"there is no compute capability {wanted!r}", fix=f"Choose from {', '.join(known)}.")
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(api.ComputeCapability, wanted), 0)
    return []


def _load_timing_cache(config: Any, job: Job) -> list[str]:
    path = job.options.timing_cache
    if path is None:
        return []
    if job.flavour == "tensorrt-rtx":
        return ["the timing cache was passed by: TensorRT-RTX times nothing when it builds"]
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        # Of another GPU or another version: a slower build, and the same engine.
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
        return [f"the timing cache {path.name} is of another GPU or TensorRT; it is made anew"]
    return []


def _save_timing_cache(config: Any, job: Job) -> None:
    path = job.options.timing_cache
    if path is None or job.flavour == "tensorrt-rtx":
        return
    with whole_file(path) as part:
        part.write_bytes(bytes(config.get_timing_cache().serialize()))


def _set_profile(builder: Any, config: Any, ranges: Profile) -> None:
    if not ranges:
        return
    profile = builder.create_optimization_profile()
    for name, span in ranges.items():
        profile.set_shape(name, span.min, span.opt, span.max)
    if config.add_optimization_profile(profile) < 0:
        raise BuildError("TensorRT refuses the optimisation profile", fix="Check the ranges of the inputs.")


# --------------------------------------------------------------------------------------------- outcome


def _layers(api: Any, log: Log, plan: Any) -> tuple[tuple[EngineLayer, ...] | None, list[str]]:
    """Return the final layers from the log, else from the inspector, which needs a GPU; else None and why."""
    try:
        if log.layers:
            return parse_layers(log.layers), []
        return _inspect(api, plan)
    except ValueError as error:
        return None, [f"the list of layers is not known: {error}"]


def _inspect(api: Any, plan: Any) -> tuple[tuple[EngineLayer, ...] | None, list[str]]:
    engine = api.Runtime(logger_of(api)).deserialize_cuda_engine(plan)
    if engine is None:
        return None, ["the list of layers is not known: the builder told none, and there is no GPU to ask"]
    inspector = engine.create_engine_inspector()
    return parse_inspector(inspector.get_engine_information(api.LayerInformationFormat.JSON)), []


def _build_error(log: Log, job: Job) -> BuildError | MachineError:
    label, reasons = LABELS[job.flavour], log.last_errors() or "it gave no reason"
    if "out of memory" in reasons.lower() or "outofmemory" in reasons.lower():
        return MachineError(
            f"{label} ran out of memory while it built {job.onnx.name}:\n{reasons}",
            fix="Set workspace_mib in the target, lower optimization_level, or give smaller max shapes.",
        )
    return BuildError(
        f"{label} built no engine from {job.onnx.name}:\n{reasons}",
        fix="These are the builder's own words. A lower optimization_level, or FP32, narrows it down.",
    )
