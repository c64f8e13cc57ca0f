"""The calibration pass of a conversion: which values are watched, in what batches, and what the user is told of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from mmtrt.artifacts import key_of
from mmtrt.metrics.histogram import Histogram
from mmtrt.onnx_files import model_digest
from mmtrt.precision.bounds import Bounds
from mmtrt.precision.converted import CalibrationRecord
from mmtrt.precision.fp16 import HEADROOM
from mmtrt.precision.graph import MacNode
from mmtrt.precision.masks import LARGEST, Masks, clamp_masks
from mmtrt.precision.observe import Observed, observe, peak_rss_mib, plain_inference
from mmtrt.precision.options import PrecisionOptions
from mmtrt.precision.padding import token_masks
from mmtrt.precision.plan import Plan, make_plan
from mmtrt.precision.ranges import Ranges, load_ranges, merged
from mmtrt.precision.rows import RowSamples
from mmtrt.precision.tune import reading
from mmtrt.samples import FEW_SAMPLES, Batch, Sample, SampleSet, batches, checked
from mmtrt.samples.variety import Variety
from mmtrt.tensors import ModelSpec

__all__ = ["Calibrated", "Calibration"]

_BATCH = 12
_WATCHED_BYTES = 1 << 27
"""What a batch's watched values may take: two of them are there at a time, and ONNX Runtime's own copies."""

_PLAIN_EVERY = 8
_PLAIN_AT_MOST = 2

_CLEAR = 8.0
"""Ranges for FP16 are clear where so many times of what was seen would change nothing."""


@dataclass(slots=True, kw_only=True)
class Calibrated:
    """What is known of a model after a calibration pass, or before any.

    `saved` are the ranges as a file keeps them, None where nothing was run or read.
    """

    seen: Observed
    masks: Masks
    bounds: Bounds
    record: CalibrationRecord | None = None
    saved: Ranges | None = None

    @classmethod
    def nothing(cls, model: ir.Model) -> Calibrated:
        """Return what is known of a model without samples."""
        return cls(seen=Observed(), masks=Masks(), bounds=Bounds(model))


class Calibration:
    """A pass of a set over a model; constants beyond FP16's range are clamped in the model first.

    `macs` and `shapes` are the model's products and the shapes of its values at the usual sizes. Earlier ranges are
    read from `ranges_file` where there is one; `source` is the model's file. `tell` takes notes for the user.
    """

    def __init__(
        self,
        model: ir.Model,
        source: Path,
        spec: ModelSpec,
        options: PrecisionOptions,
        samples: SampleSet,
        *,
        macs: Sequence[MacNode],
        shapes: Mapping[str, tuple[int, ...]],
        ranges_file: Path | None,
        tell: Callable[[str], None],
    ) -> None:
        self._source = source
        self._spec = spec
        self._options = options
        self._samples = samples
        self._macs = macs
        self._shapes = shapes
        self._ranges_file = ranges_file
        self._tell = tell
        self._masks = clamp_masks(model)
        self._bounds = Bounds(model)
        self._proto = ir.to_proto(model)
        self._variety = Variety(spec)
        self._timer = _Timer()
        self._inputs: dict[str, tuple[float, float]] = {}

    def run(self, plan: Plan) -> Calibrated:
        """Run the set once; a second pass watches what the first could not bound, where there is any.

        SampleError and ModelError say what is wrong with a sample or with what the model makes of it, InputError what
        is wrong with the file of earlier ranges.
        """
        for name in self._masks.constants:
            self._tell(f"constant {name!r} is beyond FP16's range and was clamped")
        watched = self._watched(plan)
        size = self._options.batch or self._fitting({*plan.values(), *watched})
        saved = self._observed(plan, size, watched)
        seen = saved.seen
        more = self._bounds.unbounded(seen.amax, LARGEST / HEADROOM)
        # Sets that are known from a file can't be watched once more: there the bounds decide.
        if more and len(saved.sets) == 1:
            self._tell(f"{len(more)} values may leave FP16's range by their bounds: a second pass watches them")
            again = observe(self._proto, self._batches(size), folder=self._folder, histograms=(), ranges=more)
            seen.amax.update(again.amax)
            seen.wall_s += again.wall_s
        self._tell_of(seen, plan)
        record = self._record(seen, plan, saved.sets)
        return Calibrated(seen=seen, masks=self._masks, bounds=self._bounds, record=record, saved=saved)

    @property
    def _folder(self) -> Path:
        return self._source.parent

    def _observed(self, plan: Plan, size: int, watched: Sequence[str]) -> Ranges:
        """Run the set and add it to what the file of earlier ranges holds."""
        rows = reading(plan) if self._judges else {}
        model = model_digest(self._source) if self._ranges_file is not None else ""
        earlier = None
        if self._ranges_file is not None and self._ranges_file.exists():
            like = Observed(
                histograms={name: Histogram() for name in plan.values()},
                amax=dict.fromkeys([*plan.values(), *watched], 0.0),
                rows=RowSamples(rows),
            )
            earlier = load_ranges(self._ranges_file, model=model, like=like)
            if self._samples.key in earlier.sets:
                self._tell(f"{self._ranges_file} has this set already: nothing was run")
                return earlier
        seen = observe(
            self._proto,
            self._timer.each(self._batches(size)),
            folder=self._folder,
            histograms=plan.values(),
            ranges=watched,
            rows=rows,
            masks=self._token_masks(),
            enough=self._clear if not plan.nodes and self._ranges_file is None else lambda _: False,
        )
        own = Ranges(seen=seen, model=model, sets=(self._samples.key,))
        return merged(own, earlier) if earlier is not None else own

    def _clear(self, seen: Observed) -> bool:
        """Tell whether ranges are so far from what FP16 holds, or so far beyond, that more samples decide nothing."""
        if seen.samples < FEW_SAMPLES:
            return False
        limit = LARGEST / HEADROOM
        return not any(
            limit / _CLEAR < amax <= limit for name, amax in seen.amax.items() if name not in self._masks.values
        )

    def _token_masks(self) -> dict[str, str]:
        masks = token_masks(self._proto, self._spec)
        for mask in dict.fromkeys(masks.values()):
            self._tell(f"tokens where {mask!r} is 0 are padding: they don't count in INT8's ranges")
        return masks

    def _fitting(self, names: Collection[str]) -> int:
        """Return how many samples' watched values fit into what is meant for them, at the usual sizes."""
        firsts = {str(tensor.shape[0]) for tensor in self._spec.inputs if tensor.shape}
        batch = next((span[1] for dim, span in self._spec.ranges.items() if dim in firsts), 1)
        per_sample = 4 * sum(math.prod(self._shapes.get(name, ())) for name in names) // max(batch, 1)
        return max(1, min(_BATCH, _WATCHED_BYTES // max(per_sample, 1)))

    @property
    def _judges(self) -> bool:
        """Whether rows are needed to choose thresholds or to refine weights."""
        return self._options.method == "auto" or bool(self._options.refine)

    def _watched(self, plan: Plan) -> list[str]:
        """Values whose ranges the pass keeps beside the histograms: float inputs, masks, what no rule bounds."""
        floats = [tensor.name for tensor in self._spec.inputs if tensor.dtype.startswith("float")]
        # Bounds start from what INT8 sees; where only FP16 is asked for, the same ranges keep them from compounding.
        starts = [] if plan.nodes else make_plan(list(self._macs)).values()
        loose = self._bounds.unbounded({}, LARGEST / HEADROOM)
        return list(dict.fromkeys([*floats, *starts, *loose, *sorted(self._masks.values)]))

    def _batches(self, size: int) -> Iterator[Batch]:
        variety = self._variety = Variety(self._spec)

        def watched(samples: Iterable[Sample]) -> Iterator[Sample]:
            for sample in samples:
                variety.see(sample)
                self._see(sample)
                yield sample

        shown = checked(self._samples.inputs_only(), self._spec, note=self._tell)
        return batches(watched(shown), self._spec, size=size)

    def _see(self, sample: Sample) -> None:
        """Widen the ranges of the float inputs."""
        for tensor in self._spec.inputs:
            values = np.asarray(sample[tensor.name])
            if tensor.dtype.startswith("float") and values.size:
                low, high = self._inputs.get(tensor.name, (math.inf, -math.inf))
                self._inputs[tensor.name] = (min(low, float(values.min())), max(high, float(values.max())))

    def _tell_of(self, seen: Observed, plan: Plan) -> None:
        """Say what the set was, and what it lacks."""
        if seen.stopped:
            self._tell(f"{seen.samples} samples told enough: no range is near FP16's limits")
        if not self._samples.on_data:
            self._tell("calibrated on random numbers, not on data: good for smoke tests only")
        elif plan.nodes:
            for text in self._variety.notes():
                self._tell(text)
        if seen.samples < FEW_SAMPLES:
            self._tell(f"only {seen.samples} calibration samples: {FEW_SAMPLES} or more make ranges that hold")

    def _record(self, seen: Observed, plan: Plan, sets: tuple[str, ...]) -> CalibrationRecord:
        peak = peak_rss_mib()
        plain = None
        if plan.nodes and self._timer.ran:
            plain = self._timer.plain_inference(self._proto, self._folder, seen.samples)
        return CalibrationRecord(
            source=self._samples.source,
            key=self._samples.key if len(sets) == 1 else key_of({"sets": list(sets)}),
            samples=seen.samples,
            method=self._options.method if plan.nodes else "max",
            wall_s=seen.wall_s,
            read_s=self._timer.read_s,
            inference_s=plain,
            peak_rss_mib=peak,
            on_data=self._samples.on_data,
            inputs=dict(self._inputs),
        )


class _Timer:
    """Times the fetching of samples; and plain inference on some of the batches, once nothing else runs."""

    def __init__(self) -> None:
        self._timed: list[Batch] = []
        self.read_s = 0.0

    @property
    def ran(self) -> bool:
        """Whether there were batches at all."""
        return bool(self._timed)

    def each(self, given: Iterable[Batch]) -> Iterator[Batch]:
        """Pass the batches on, and keep every eighth of the first ones."""
        start = time.perf_counter()
        for index, batch in enumerate(given):
            self.read_s += time.perf_counter() - start
            if index % _PLAIN_EVERY == 0 and len(self._timed) < _PLAIN_AT_MOST:
                self._timed.append(batch)
            yield batch
            start = time.perf_counter()

    def plain_inference(self, proto: onnx.ModelProto, folder: Path, samples: int) -> float:
        """Return the seconds of plain inference over so many samples, extrapolated from the batches kept."""
        run = plain_inference(proto, folder)
        run(self._timed[0])  # the first run of a session allocates
        return sum(map(run, self._timed)) * samples / sum(len(batch.indices) for batch in self._timed)
