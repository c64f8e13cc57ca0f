"""Layer times of an ONNX file, by ONNX Runtime's profiler, with all its optimisations: what it fuses is mapped back."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from mmtrt.bench.branches import nodes_of
from mmtrt.bench.layers import LayerTime, LayerTimes, Nodes, middle_mean, placed, summed
from mmtrt.bench.ort_origins import origins_of
from mmtrt.errors import MeasurementError
from mmtrt.onnx_files import elem_types, model_spec, open_model
from mmtrt.runtimes.ort import session_options
from mmtrt.tensors import Array, Feeds

__all__ = ["ort_layer_times"]

_WARM = 3
_LEAST = 10
_MOST_EVENTS = 400_000
"""ONNX Runtime keeps a million and drops the rest; each is half a kilobyte of JSON to read."""
_SUFFIX = "_kernel_time"
_PROBES = 64
_COLD = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Profile:
    """Durations in ms, `(runs, kernels)`, each with the operator and the name by which the profiler tells of it."""

    kernels: tuple[tuple[str, str], ...]
    ms: Array


def ort_layer_times(path: Path, feeds: Feeds, *, duration_s: float = 2.0, threads: int | None = None) -> LayerTimes:
    """Profile an ONNX file on one set of inputs, for about `duration_s` seconds, at least ten runs.

    Runs with the profiler and without it take turns, so that what the machine does meets both. A kernel's time is the
    mean over the middle half of its runs, less what the profiler itself takes: as much as the cheapest kernel of all,
    but at most a few times what a kernel takes that does nothing. MeasurementError where the model does not run.
    """
    model = open_model(path)
    with tempfile.TemporaryDirectory() as folder:
        try:
            profile, latency_ms, optimised = _profiled(path, Path(folder), feeds, duration_s, threads)
        except MeasurementError:
            raise
        except Exception as error:
            raise MeasurementError(f"{path}: ONNX Runtime failed: {error}") from error
        cost_ms = _profiler_ms(Path(folder))
    means = middle_mean(profile.ms)
    # Between other work it costs more than in a row of nothing, where all of it is in the cache.
    cost_ms = min(float(means.min()), _COLD * cost_ms)
    means -= cost_ms
    layers, notes = _layers(model, optimised, profile.kernels, means)
    return summed(
        file=str(path),
        runs=f"onnxruntime {ort.__version__} CPU",
        source="ONNX Runtime's profiler",
        layers=layers,
        latency_ms=latency_ms,
        profiled=len(profile.ms),
        notes=[f"{1e3 * cost_ms:.1f} us a kernel are the profiler's own, and taken off", *notes],
    )


# ------------------------------------------------------------------------------------------- measuring


def _profiled(
    path: Path, folder: Path, feeds: Feeds, duration_s: float, threads: int | None
) -> tuple[_Profile, float, onnx.ModelProto]:
    options = session_options("speed", threads=threads)
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    # Weights would be written once more, and may be more than a file of that kind can hold.
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimised.data")
    watched = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(folder / "optimised.onnx", load_external_data=False)
    plain = ort.InferenceSession(
        str(path), session_options("speed", threads=threads), providers=["CPUExecutionProvider"]
    )
    times = _take_turns(plain, watched, feeds, duration_s, len(optimised.graph.node))
    events = json.loads(Path(watched.end_profiling()).read_text(encoding="utf-8"))
    return _read(events), float(middle_mean(np.array(times))), optimised


def _take_turns(
    plain: ort.InferenceSession, watched: ort.InferenceSession, feeds: Feeds, duration_s: float, kernels: int
) -> list[float]:
    """Run both in turn; return what the plain one took, in ms."""
    fed = dict(feeds)
    for session in [plain, watched] * _WARM:
        session.run(None, fed)
    times: list[float] = []
    until = time.perf_counter() + duration_s
    most = max(_LEAST, _MOST_EVENTS // max(kernels, 1))
    while len(times) < _LEAST or (time.perf_counter() < until and len(times) < most):
        start = time.perf_counter_ns()
        plain.run(None, fed)
        times.append((time.perf_counter_ns() - start) / 1e6)
        watched.run(None, fed)
    return times


def _read(events: Sequence[Mapping[str, Any]]) -> _Profile:
    """Return the kernels of each run but the first ones; those inside another, as of a loop's body, are in its time."""
    runs = sorted(event["ts"] for event in events if event["name"] == "model_run")[_WARM:]
    kernels = sorted(
        (event for event in events if event["name"].endswith(_SUFFIX)), key=lambda event: (event["ts"], -event["dur"])
    )
    rows: list[list[Mapping[str, Any]]] = [[] for _ in runs]
    end, index = -1, -1
    for event in kernels:
        while index + 1 < len(runs) and event["ts"] >= runs[index + 1]:
            index, end = index + 1, -1
        if index < 0 or event["ts"] + event["dur"] <= end:
            continue
        end = event["ts"] + event["dur"]
        rows[index].append(event)
    if not rows or not rows[0] or len({len(row) for row in rows}) > 1:
        raise MeasurementError("ONNX Runtime's profile is not the same kernels in each run")
    named = tuple((event["args"]["op_name"], event["name"].removesuffix(_SUFFIX)) for event in rows[0])
    return _Profile(kernels=named, ms=np.array([[event["dur"] for event in row] for row in rows]) / 1e3)


def _profiler_ms(folder: Path) -> float:
    """Return what the profiler adds to a kernel: the time of one that changes the sign of one number."""
    names = ["x", *(f"x{index}" for index in range(_PROBES))]
    nodes = [helper.make_node("Neg", [names[i]], [names[i + 1]]) for i in range(_PROBES)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in (names[0], names[-1])]
    graph = helper.make_graph(nodes, "probe", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 17)]
    probe = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    options = session_options("parity", threads=1)
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "probe")
    session = ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for _ in range(_WARM + _LEAST):
        session.run(None, {"x": np.zeros(1, np.float32)})
    read = _read(json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")))
    return float(np.median(read.ms.mean(axis=1)))


# --------------------------------------------------------------------------------------------- mapping


def _layers(
    model: onnx.ModelProto, optimised: onnx.ModelProto, kernels: Sequence[tuple[str, str]], means: Array
) -> tuple[list[LayerTime], list[str]]:
    known = nodes_of(model, model_spec(model))
    made = list(optimised.graph.node)
    notes = []
    if [node.op_type for node in made] != [op for op, _ in kernels]:
        # Never seen; by their names most are found all the same.
        by_name = {node.name: node for node in made if node.name}
        made = [by_name.get(name, onnx.NodeProto(op_type=op)) for op, name in kernels]
        notes.append("ONNX Runtime ran other kernels than it told: they are known by their names only")
    origins = origins_of(model, made)
    types = _types(optimised.graph)
    layers = [
        LayerTime(
            name=name,
            kind=op,
            nodes=tuple(nodes),
            precision=_precision(node, [types.get(value, "") for value in node.input if value]),
            ms=float(ms),
            share=0.0,
            **place,
        )
        for node, nodes, place, (op, name), ms in zip(
            made, origins, _places(made, origins, known), kernels, means, strict=True
        )
    ]
    return layers, notes


def _places(made: Sequence[onnx.NodeProto], origins: Sequence[Sequence[str]], known: Nodes) -> list[dict[str, Any]]:
    """Place each kernel; one that only moves or casts belongs where its input was made, else where its output goes."""
    places = [placed(nodes, known) for nodes in origins]
    for forward in (True, False):
        by_value: dict[str, dict[str, Any]] = {}
        order = range(len(made)) if forward else range(len(made) - 1, -1, -1)
        for index in order:
            near, far = (made[index].input, made[index].output) if forward else (made[index].output, made[index].input)
            if not places[index]["parts"]:
                places[index] = next((by_value[value] for value in near if value in by_value), places[index])
            if places[index]["parts"]:
                by_value.update(dict.fromkeys(far, places[index]))
    return places


def _types(graph: onnx.GraphProto) -> dict[str, str]:
    names = elem_types()
    values = {
        value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)
    }
    values |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    return {name: names.get(number, "") for name, number in values.items()}


def _precision(kernel: onnx.NodeProto, types: Sequence[str]) -> str:
    """Return what a kernel computes in, by its inputs: `int8` where it multiplies integers."""
    if "Integer" in kernel.op_type or kernel.op_type.startswith("QLinear"):
        return "int8"
    first = next((name for name in types if name.startswith(("float", "bfloat"))), types[0] if types else "")
    return {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}.get(first, first)
