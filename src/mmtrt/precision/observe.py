"""One pass over the calibration set: histograms of the activations that INT8 needs, ranges that FP16 needs."""

from __future__ import annotations

import contextlib
import math
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from mmtrt.errors import SampleError
from mmtrt.metrics.histogram import SAMPLED, Histogram, largest
from mmtrt.precision.rows import Geometry, RowSamples
from mmtrt.runtimes.ort import session_from
from mmtrt.samples import Batch
from mmtrt.tensors import Array

_COUNTED_OF_A_TOKEN = SAMPLED // 16

__all__ = ["Observed", "observe", "peak_rss_mib", "plain_inference"]


@dataclass(slots=True, kw_only=True)
class Observed:
    """What the calibration set showed: histograms, rows, and the largest |values| by value name.

    Padded tokens are in `amax` only: their values must be finite in FP16 too, but are nothing to calibrate on.
    """

    histograms: dict[str, Histogram] = field(default_factory=dict)
    rows: RowSamples = field(default_factory=lambda: RowSamples({}))
    amax: dict[str, float] = field(default_factory=dict)
    samples: int = 0
    wall_s: float = 0.0
    stopped: bool = False
    """Whether it was told to stop before the set's end."""


def observe(
    model: onnx.ModelProto,
    batches: Iterable[Batch],
    *,
    folder: Path | None = None,
    histograms: Sequence[str],
    ranges: Sequence[str] = (),
    rows: Mapping[str, Sequence[Geometry]] | None = None,
    masks: Mapping[str, str] | None = None,
    enough: Callable[[Observed], bool] = lambda _: False,
) -> Observed:
    """Run the model once over the batches and keep histograms, rows of them, and exact ranges of further values.

    The model's external data lie in `folder`. `rows` names how those who read a value read it; `masks` maps a value
    `(B, T, ...)` to the input `(B, T)` that is 0 where a token is padding; `enough` is asked after each batch whether
    to stop. Memory is that of two batches, of the histograms and of the rows, however many samples there are.
    SampleError where a sample makes an activation NaN or Inf, with the samples' numbers, and where a mask leaves no
    token of the whole set.
    """
    seen = Observed(
        histograms={name: Histogram() for name in histograms},
        rows=RowSamples(rows or {}),
        amax=dict.fromkeys([*histograms, *ranges], 0.0),
    )
    names = list(seen.amax)
    session = session_from(_with_outputs(model, names), "watching", folder=folder)
    start = time.perf_counter()
    for batch, arrays in _run_ahead(session, names, batches):
        wanted = seen.rows.wanted(batch.feeds)
        for name, array in zip(names, arrays, strict=True):
            kept = batch.feeds[masks[name]] if masks and name in masks else None
            try:
                _see(seen, name, array, kept)
            except ValueError as error:
                raise SampleError(
                    f"{error} at {name!r}, in one of the samples {', '.join(map(str, batch.indices))}",
                    fix="Does the FP32 model itself give NaN or Inf there?",
                ) from None
            seen.rows.add(name, array, wanted, len(batch.indices), kept)
        seen.samples += len(batch.indices)
        if enough(seen):
            seen.stopped = True
            break
    seen.wall_s = time.perf_counter() - start
    for name, histogram in seen.histograms.items():
        if masks and name in masks and not histogram.counts.any():
            raise SampleError(
                f"the input {masks[name]!r} masks all tokens of all samples, so nothing is known of {name!r}",
                fix="0 stands for padding there; calibrate on samples that have this modality.",
            )
    return seen


def _run_ahead(
    session: ort.InferenceSession, names: list[str], batches: Iterable[Batch]
) -> Iterator[tuple[Batch, list[Array]]]:
    """Yield batches with their values; the next one is read and run while the last one is looked at."""
    with ThreadPoolExecutor(1) as pool:
        waiting: tuple[Batch, Future[list[Array]]] | None = None
        for batch in batches:
            running = pool.submit(session.run, names, batch.feeds)
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = (batch, running)
        if waiting is not None:
            yield waiting[0], waiting[1].result()


def _see(seen: Observed, name: str, array: Array, kept: Array | None) -> None:
    amax = largest(array)
    histogram = seen.histograms.get(name)
    if histogram is None:
        # A NaN is passed by; a range of a mask may be infinite, and the caller decides what that means.
        finite = float(np.fmax.reduce(np.abs(array), axis=None)) if math.isnan(amax) else amax
        seen.amax[name] = max(seen.amax[name], 0.0 if math.isnan(finite) else finite)
        return
    seen.amax[name] = max(seen.amax[name], amax)
    if kept is None:
        histogram.add(array, amax=amax)
        return
    if not math.isfinite(amax):
        raise ValueError("the activations are not finite")
    # Token by token, so that what is counted of one depends neither on its neighbours nor on its batch.
    tokens = array.reshape(kept.size, -1)
    histogram.add(tokens if kept.all() else tokens[kept.reshape(-1) != 0], each=_COUNTED_OF_A_TOKEN)


def _with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Return the model with these values as its outputs, in this order."""
    known = {value.name: value for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)}
    wider = onnx.ModelProto()
    wider.CopyFrom(model)
    del wider.graph.output[:]
    for name in names:
        info = wider.graph.output.add()
        if name in known:
            info.CopyFrom(known[name])
        else:
            info.CopyFrom(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return wider


def plain_inference(model: onnx.ModelProto, folder: Path | None = None) -> Callable[[Batch], float]:
    """Return a function that runs plain FP32 inference on a batch and returns its seconds."""
    session = session_from(model, "speed", folder=folder)
    names = [output.name for output in session.get_outputs()]

    def run(batch: Batch) -> float:
        start = time.perf_counter()
        session.run(names, batch.feeds)
        return time.perf_counter() - start

    return run


def peak_rss_mib() -> float:
    """Return this process's peak resident memory in MiB."""
    with contextlib.suppress(OSError, ValueError):
        # Not getrusage: its peak starts at what the parent had when it forked.
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / (1 << 10)
