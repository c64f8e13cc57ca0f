"""The precision stage: an FP32 ONNX becomes an FP16 or an INT8 one."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from mmtrt.artifacts import key_of
from mmtrt.errors import BuildError, ModelError, SampleError, UsageError
from mmtrt.onnx_files import (
    BUDGET_KEY,
    SPEC_KEY,
    embedded,
    model_digest,
    model_spec,
    open_model,
    save_model,
    set_metadata,
)
from mmtrt.precision.bounds import Bounds
from mmtrt.precision.fp16 import HEADROOM, keep_fp32, to_fp16
from mmtrt.precision.graph import MacNode, behind_dq, mac_nodes, module_of, typed, usual_shapes, with_weights_in
from mmtrt.precision.histogram import Histogram
from mmtrt.precision.lint import has_qdq, lint_qdq
from mmtrt.precision.masks import LARGEST, Masks, clamp_masks
from mmtrt.precision.observe import Observed, observe, peak_rss_mib, plain_inference
from mmtrt.precision.padding import token_masks
from mmtrt.precision.placement import Priced, place
from mmtrt.precision.plan import COVERAGES, Kept, Plan, make_plan
from mmtrt.precision.qdq import add_to_bias, insert_qdq
from mmtrt.precision.ranges import Ranges, load_ranges, merged, save_ranges
from mmtrt.precision.rows import RowSamples
from mmtrt.precision.thresholds import METHODS
from mmtrt.precision.tune import Tuned, reading, tune
from mmtrt.samples import FEW_SAMPLES, Batch, Sample, SampleSet, batches, checked, open_set, shapes_profile
from mmtrt.samples.random import RANDOM, random_set
from mmtrt.samples.variety import Variety
from mmtrt.tensors import ModelSpec

__all__ = [
    "PRECISION_KEY",
    "REFINED",
    "REFINEMENTS",
    "CalibrationRecord",
    "Conversion",
    "Converted",
    "PrecisionOptions",
    "Price",
    "convert",
]

PRECISION_KEY = "mmtrt.precision"
REFINEMENTS = ("balance", "compensate", "round", "bias")
REFINED = ("balance", "round", "bias")
"""What is done unless asked otherwise; what each gains stands in docs/decisions/0007."""

_BATCH = 12
_WATCHED_BYTES = 1 << 27
"""What a batch's watched values may take: two of them are there at a time, and ONNX Runtime's own copies."""

_PLAIN_EVERY = 8
_PLAIN_AT_MOST = 2

_CLEAR = 8.0
"""Ranges for FP16 are clear where so many times of what was seen would change nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionOptions:
    """What may differ between two conversions.

    `keep` names nodes or modules that stay out of INT8 or FP16; `batch` is how many samples run at once, None for as
    many as the memory meant for them takes; `budget` is the parity budget that the result carries; `refine` names what
    is done to weights and biases beside rounding them, see `precision/tune.py`.
    """

    precision: str
    method: str = "auto"
    coverage: str = "wide"
    keep: tuple[str, ...] = ()
    batch: int | None = None
    budget: Mapping[str, float] = field(default_factory=dict)
    refine: tuple[str, ...] = REFINED


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRecord:
    """What calibrated a model, and what that cost.

    `wall_s` is the pass over the set, reading and counting included; `read_s` the part of it that fetched samples while
    the model ran on others; `inference_s` is plain FP32 inference over the same samples, reading left out, extrapolated
    from a few batches, which are timed when an INT8 pass is over; None for FP16.
    """

    source: str
    key: str
    samples: int
    method: str
    wall_s: float
    read_s: float
    inference_s: float | None
    peak_rss_mib: float
    on_data: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """What a conversion wrote: counts of INT8 nodes and their share of the multiply-accumulates, and what is kept.

    `coverage` and `refine` are those of the options where INT8 was placed here, None and () elsewhere.
    """

    onnx: Path
    precision: str
    spec: ModelSpec
    int8_nodes: int = 0
    mac_nodes: int = 0
    mac_share: float = 0.0
    coverage: str | None = None
    refine: tuple[str, ...] = ()
    calibration: CalibrationRecord | None = None
    kept: tuple[Kept, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def from_json(cls, data: Mapping[str, Any], path: Path) -> Converted:
        """Read what `asdict` gave, with the spec as JSON, for a file that now lies at `path`."""
        record = data["calibration"]
        return cls(
            onnx=path,
            precision=data["precision"],
            spec=ModelSpec.from_json(data["spec"]),
            int8_nodes=data["int8_nodes"],
            mac_nodes=data["mac_nodes"],
            mac_share=data["mac_share"],
            coverage=data["coverage"],
            refine=tuple(data["refine"]),
            calibration=CalibrationRecord(**record) if record else None,
            kept=tuple(Kept(**kept) for kept in data["kept"]),
            notes=tuple(data["notes"]),
        )

    def summary(self) -> dict[str, Any]:
        """Return what the ONNX metadata and the manifest say of it; nothing that differs from run to run."""
        calibration = None
        if self.calibration:
            record = asdict(self.calibration)
            calibration = {k: record[k] for k in ("source", "key", "samples", "method", "on_data")}
        return {
            "schema": "mmtrt.precision/1",
            "precision": self.precision,
            "int8": {
                "nodes": self.int8_nodes,
                "of": self.mac_nodes,
                "mac_share": round(self.mac_share, 4),
                "coverage": self.coverage,
                "refine": list(self.refine),
            },
            "calibration": calibration,
            "kept": [asdict(kept) for kept in self.kept],
        }


Price = Callable[[Path, Mapping[str, int]], Priced]


def convert(
    source: Path,
    target: Path,
    options: PrecisionOptions,
    *,
    samples: str | SampleSet | None = None,
    count: int | None = None,
    ranges: Mapping[str, tuple[int, int, int]] | None = None,
    price: Price | None = None,
    ranges_file: Path | None = None,
    ranges_out: Path | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Converted:
    """Convert `source` and write `target`, whole or not at all.

    `samples` is a set or its name; INT8 and FP16 need one. `ranges` replaces those of the model's metadata. `price`
    builds a file for these sizes and tells its kernels: coverage "engine" needs it. What `ranges_file` holds is added
    to what the samples show, and both go into `ranges_out`. ModelError and SampleError say what is wrong with the
    model or with a sample, InputError what is wrong with the ranges.
    """
    conversion = Conversion.opened(
        source,
        options,
        samples=samples,
        count=count,
        ranges=ranges,
        price=price,
        ranges_file=ranges_file or ranges_out,
        note=note,
    )
    made = conversion.run(target)
    if ranges_out is not None and conversion.saved is not None:
        save_ranges(conversion.saved, ranges_out)
    return made


def _check_options(options: PrecisionOptions) -> None:
    if options.precision not in {"fp32", "fp16", "int8"}:
        raise UsageError(f"unknown precision {options.precision!r}", fix="Known are fp32, fp16 and int8.")
    _known("calibration method", options.method, ("auto", *METHODS))
    _known("coverage", options.coverage, COVERAGES)
    for name in options.refine:
        _known("refinement", name, REFINEMENTS)


def _known(what: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        near = get_close_matches(given, known, n=1)
        raise UsageError(
            f"unknown {what} {given!r}", fix=f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(known)}."
        )


def _with_ranges(
    spec: ModelSpec, samples: SampleSet | None, ranges: Mapping[str, tuple[int, int, int]] | None
) -> ModelSpec:
    """Take the ranges given, else the model's own, else those of the samples' shapes."""
    names = {dim for tensor in spec.inputs for dim in tensor.shape if isinstance(dim, str)}
    merged = {**spec.ranges, **(ranges or {})}
    if names - merged.keys() and samples is not None:
        shown = shapes_profile(checked(samples, replace(spec, ranges=merged)), spec)
        merged = {**shown, **merged}
    return replace(spec, ranges={name: merged[name] for name in sorted(names & merged.keys())})


class Conversion:
    """One conversion's state: the float model as ONNX and as IR, what the set showed, and what was decided.

    `run` does it all. A search calls `prepare`, tries what it likes on copies of `model`, and then `finish`.
    """

    def __init__(
        self,
        proto: onnx.ModelProto,
        folder: Path,
        spec: ModelSpec,
        options: PrecisionOptions,
        samples: SampleSet | None,
        note: Callable[[str], None],
    ) -> None:
        self._note = note
        self.notes: list[str] = []
        self.proto = typed(proto)
        self.folder = folder
        self.spec = spec
        self.options = options
        self.samples = samples
        self.model = with_weights_in(self.proto, folder)
        usual = {name: span[1] for name, span in spec.ranges.items()}
        self.usual = usual
        self.shapes = usual_shapes(self.proto, usual)
        self.macs = mac_nodes(self.model, self.shapes)
        self.source = folder
        self.price: Price | None = None
        self.ranges_file: Path | None = None
        self.saved: Ranges | None = None
        self.variety = Variety(spec)
        self.known: dict[object, Tuned] = {}
        self.record: CalibrationRecord | None = None
        self.masks = Masks()
        self.bounds = Bounds(self.model)
        self.plan = Plan(nodes=(), residuals=(), kept=())
        self.seen = Observed()

    @classmethod
    def opened(
        cls,
        source: Path,
        options: PrecisionOptions,
        *,
        samples: str | SampleSet | None = None,
        count: int | None = None,
        ranges: Mapping[str, tuple[int, int, int]] | None = None,
        price: Price | None = None,
        ranges_file: Path | None = None,
        note: Callable[[str], None] = lambda _: None,
    ) -> Conversion:
        """Open what `convert` is given."""
        _check_options(options)
        proto = open_model(source)
        spec = model_spec(proto)
        if samples == RANDOM:
            spec = _with_ranges(spec, None, ranges)
            opened: SampleSet | None = random_set(spec, count or FEW_SAMPLES)
        else:
            opened = open_set(samples, count=count) if isinstance(samples, str) else samples
            spec = _with_ranges(spec, opened, ranges)
        made = cls(proto, source.parent, spec, options, opened, note)
        made.source, made.price, made.ranges_file = source, price, ranges_file
        return made

    def tell(self, text: str) -> None:
        """Note something for the user, now and in the result."""
        self.notes.append(text)
        self._note(text)

    def run(self, target: Path) -> Converted:
        """Convert and write."""
        self.prepare()
        return self.finish(target)

    def prepare(self) -> None:
        """Plan, and run the calibration set."""
        for text in lint_qdq(self.model, self.macs):
            self.tell(text)
        if self.options.precision == "fp32":
            return
        if self.options.precision == "int8" and not has_qdq(self.model):
            self.plan = make_plan(self.macs, keep=self._names(self.options.keep), coverage=self.options.coverage)
            if not self.plan.nodes:
                raise ModelError(
                    "no layer of the model can be INT8",
                    fix="It has no Conv, Gemm or MatMul with constant weights.",
                )
        self.seen = self._observe(self.plan)
        if self.options.coverage == "engine" and self.plan.nodes:
            self._place()

    def tuned(self, plan: Plan | None = None) -> Tuned:
        """Return thresholds, weights and biases for a plan, the one that stands if none is given."""
        return tune(plan or self.plan, self.seen, self.options.method, self.options.refine, self.known)

    def _place(self) -> None:
        """Keep out of INT8 what the engine does not gain by."""
        price = self.price
        if price is None:
            raise UsageError("coverage 'engine' needs a builder", fix="Take 'wide' or 'full' where there is none.")
        origin = _Origin(self.model, self.plan.nodes)
        with tempfile.TemporaryDirectory(prefix="mmtrt-") as folder:

            def built(keep: Iterable[str]) -> Priced:
                path = Path(folder, "model.onnx")
                plan = self._keeping(dict.fromkeys(keep, ""))
                self._write(self._placed(plan)[0], path, plan.nodes, [], placed=False)
                return price(path, self.usual)

            try:
                found = place(self.plan.nodes, built, origin)
            except BuildError as error:
                # Another builder may tell no kernels: that is no reason to build nothing.
                self.tell(f"placement can't be judged by the engine ({error.message}): it is that of coverage 'wide'")
                return
        if found is None:
            self.tell(
                "by its kernels the engine gains nowhere by INT8; it is placed by the rules all the same, "
                "as coverage 'wide' does it: FP16 may be faster"
            )
            return
        self.plan = self._keeping(found.kept)
        ours, alone = found.found, found.fp16
        self.tell(
            f"INT8 where the engine gains by it: {len(ours.kernels)} kernels, {ours.time_us:.0f} us; FP16 alone: "
            f"{len(alone.kernels)} kernels, {alone.time_us:.0f} us, by the estimate for {alone.target}; "
            f"{found.builds} engines were built to tell"
        )

    def _keeping(self, keep: Mapping[str, str]) -> Plan:
        """Return the plan with these nodes out of INT8 too, for these reasons."""
        before = {kept.node: kept.why for kept in self.plan.kept}
        plan = make_plan(self.macs, keep={*before, *keep}, coverage=self.options.coverage)
        reasons = {**keep, **before}
        return replace(plan, kept=tuple(replace(one, why=reasons.get(one.node, one.why)) for one in plan.kept))

    def finish(self, target: Path, *, keep: Mapping[str, str] | None = None) -> Converted:
        """Place and write; `keep` names nodes that stay out of INT8 after all, and why. It may be called again."""
        plan = self._keeping(keep or {}) if self.plan.nodes else self.plan
        chosen = plan.nodes
        if self.options.precision == "int8" and has_qdq(self.model):
            self.tell("the model is quantised already: its Q/DQ is kept as it is, only the rest becomes FP16")
            chosen = tuple(mac for mac in self.macs if behind_dq(mac))
        model, kept = (self.model, []) if self.options.precision == "fp32" else self._placed(plan)
        made = self._write(model, target, chosen, [*plan.kept, *kept], placed=bool(plan.nodes))
        return replace(made, notes=tuple(self.notes))

    def _placed(self, plan: Plan) -> tuple[ir.Model, list[Kept]]:
        """Return a copy of the model with a plan's Q/DQ, the rest in FP16, and what of it stays FP32."""
        tuned = self.tuned(plan)
        kept = self.options.keep if self.options.precision == "fp16" else ()
        stays = keep_fp32(self.model, self.seen.amax, known=self.bounds, masks=self.masks, keep=kept)
        model = with_weights_in(ir.to_proto(self.model), self.folder)
        own = dict(zip(self.model.graph, model.graph, strict=True))
        macs = {mac: replace(mac, node=own[mac.node]) for mac in plan.nodes}
        moved = replace(
            plan, nodes=tuple(macs.values()), residuals=tuple((own[node], index) for node, index in plan.residuals)
        )
        for mac, shift in tuned.biases.items():
            add_to_bias(model.graph, macs[mac], shift)
        weights = {own[node]: made for node, made in tuned.weights.items()}
        balancing = insert_qdq(model, moved, tuned.amax, weights, tuned.balances)
        return model, to_fp16(model, {own[node]: why for node, why in stays.items()}, feeding=balancing)

    def _names(self, keep: tuple[str, ...]) -> tuple[str, ...]:
        names = {mac.name for mac in self.macs}
        modules = {module_of(mac.node) for mac in self.macs}
        parents = {module.rsplit(".", i)[0] for module in modules for i in range(module.count(".") + 1)}
        for name in keep:
            if name not in names | modules | parents:
                near = get_close_matches(name, names | modules | parents, n=1)
                raise UsageError(
                    f"there is no node or module {name!r} to keep",
                    fix=f"Did you mean {near[0]!r}?" if near else None,
                )
        return keep

    # ------------------------------------------------------------------------------------------ calibration

    def _observe(self, plan: Plan) -> Observed:
        """Run the calibration set once; a second pass watches what the first could not bound, where there is any."""
        if self.samples is None:
            raise SampleError(
                f"{self.options.precision} needs samples to see the ranges",
                fix="Give a set with --calib, or export with `mmtrt export`, which writes one beside the model.",
            )
        self.masks = clamp_masks(self.model)
        self.bounds = Bounds(self.model)
        for name in self.masks.constants:
            self.tell(f"constant {name!r} is beyond FP16's range and was clamped")
        self.proto = ir.to_proto(self.model)
        watched = self._watched(plan)
        size = self.options.batch or self._fitting({*plan.values(), *watched})
        timer = _Timer()
        seen, sets = self._seen(plan, timer, size, watched)
        more = self.bounds.unbounded(seen.amax, LARGEST / HEADROOM)
        # Sets that are known from a file can't be watched once more: there the bounds decide.
        if more and len(sets) == 1:
            self.tell(f"{len(more)} values may leave FP16's range by their bounds: a second pass watches them")
            again = observe(self.proto, self._batches(size), folder=self.folder, histograms=(), ranges=more)
            seen.amax.update(again.amax)
            seen.wall_s += again.wall_s
        if seen.stopped:
            self.tell(f"{seen.samples} samples told enough: no range is near FP16's limits")
        if not self.samples.on_data:
            self.tell("calibrated on random numbers, not on data: good for smoke tests only")
        if plan.nodes and self.samples.on_data:
            for text in self.variety.notes():
                self.tell(text)
        if seen.samples < FEW_SAMPLES:
            self.tell(f"only {seen.samples} calibration samples: {FEW_SAMPLES} or more make ranges that hold")
        peak = peak_rss_mib()
        timed = plan.nodes and timer.ran
        plain = timer.plain_inference(self.proto, self.folder, seen.samples) if timed else None
        self.record = CalibrationRecord(
            source=self.samples.source,
            key=self.samples.key if len(sets) == 1 else key_of({"sets": list(sets)}),
            samples=seen.samples,
            method=self.options.method if plan.nodes else "max",
            wall_s=seen.wall_s,
            read_s=timer.read_s,
            inference_s=plain,
            peak_rss_mib=peak,
            on_data=self.samples.on_data,
        )
        return seen

    def _seen(self, plan: Plan, timer: _Timer, size: int, watched: Sequence[str]) -> tuple[Observed, tuple[str, ...]]:
        """Run the calibration set, add it to what `ranges_file` holds, and return both with the keys of the sets."""
        assert self.samples is not None  # noqa: S101 -- _observe has asked
        rows = reading(plan) if self._judges else {}
        earlier = None
        if self.ranges_file is not None and self.ranges_file.exists():
            like = Observed(
                histograms={name: Histogram() for name in plan.values()},
                amax=dict.fromkeys([*plan.values(), *watched], 0.0),
                rows=RowSamples(rows),
            )
            earlier = load_ranges(self.ranges_file, model=model_digest(self.source), like=like)
            if self.samples.key in earlier.sets:
                self.tell(f"{self.ranges_file} has this set already: nothing was run")
                self.saved = earlier
                return earlier.seen, earlier.sets
        seen = observe(
            self.proto,
            timer.each(self._batches(size)),
            folder=self.folder,
            histograms=plan.values(),
            ranges=watched,
            rows=rows,
            masks=self._token_masks(),
            enough=self._clear if not plan.nodes and self.ranges_file is None else lambda _: False,
        )
        own = Ranges(seen=seen, model=model_digest(self.source) if self.ranges_file else "", sets=(self.samples.key,))
        self.saved = merged(own, earlier) if earlier is not None else own
        return self.saved.seen, self.saved.sets

    def _clear(self, seen: Observed) -> bool:
        """Tell whether ranges are so far from what FP16 holds, or so far beyond, that more samples decide nothing."""
        if seen.samples < FEW_SAMPLES:
            return False
        limit = LARGEST / HEADROOM
        return not any(
            limit / _CLEAR < amax <= limit for name, amax in seen.amax.items() if name not in self.masks.values
        )

    def _token_masks(self) -> dict[str, str]:
        masks = token_masks(self.proto, self.spec)
        for mask in dict.fromkeys(masks.values()):
            self.tell(f"tokens where {mask!r} is 0 are padding: they don't count in INT8's ranges")
        return masks

    def _fitting(self, names: Collection[str]) -> int:
        """Return how many samples' watched values fit into what is meant for them, at the usual sizes."""
        firsts = {tensor.shape[0] for tensor in self.spec.inputs if tensor.shape}
        batch = next((self.usual[dim] for dim in firsts if isinstance(dim, str) and dim in self.usual), 1)
        per_sample = 4 * sum(math.prod(self.shapes.get(name, ())) for name in names) // max(batch, 1)
        return max(1, min(_BATCH, _WATCHED_BYTES // max(per_sample, 1)))

    @property
    def _judges(self) -> bool:
        """Whether rows are needed to choose thresholds or to refine weights."""
        return self.options.method == "auto" or bool(self.options.refine)

    def _watched(self, plan: Plan) -> list[str]:
        """Values whose ranges the pass keeps beside the histograms: float inputs, masks, what no rule bounds."""
        floats = [tensor.name for tensor in self.spec.inputs if tensor.dtype.startswith("float")]
        # Bounds start from what INT8 sees; where only FP16 is asked for, the same ranges keep them from compounding.
        starts = [] if plan.nodes else make_plan(self.macs).values()
        loose = self.bounds.unbounded({}, LARGEST / HEADROOM)
        return list(dict.fromkeys([*floats, *starts, *loose, *sorted(self.masks.values)]))

    def _batches(self, size: int) -> Iterator[Batch]:
        assert self.samples is not None  # noqa: S101 -- _observe has asked
        variety = Variety(self.spec)

        def watched(samples: Iterable[Sample]) -> Iterator[Sample]:
            for sample in samples:
                variety.see(sample)
                yield sample

        self.variety = variety
        return batches(watched(checked(self.samples.inputs_only(), self.spec, note=self.tell)), self.spec, size=size)

    # ---------------------------------------------------------------------------------------------- writing

    def _write(
        self, model: ir.Model, target: Path, chosen: tuple[MacNode, ...], kept: list[Kept], *, placed: bool
    ) -> Converted:
        total = sum(mac.macs for mac in self.macs)
        result = Converted(
            onnx=target,
            precision=self.options.precision,
            spec=self.spec,
            int8_nodes=len(chosen),
            mac_nodes=len(self.macs),
            mac_share=sum(mac.macs for mac in chosen) / total if total else 0.0,
            coverage=self.options.coverage if placed else None,
            refine=self.options.refine if placed else (),
            calibration=self.record,
            kept=tuple(kept),
        )
        proto = embedded(model)
        # What a value is called inside is nobody's business; a third of a small file is.
        del proto.graph.value_info[:]
        set_metadata(
            proto,
            {
                SPEC_KEY: json.dumps(self.spec.to_json(), ensure_ascii=False),
                PRECISION_KEY: json.dumps(result.summary(), ensure_ascii=False),
                BUDGET_KEY: json.dumps(dict(sorted(self.options.budget.items()))),
            },
        )
        save_model(proto, target)
        return result


class _Origin:
    """Tells where the nodes of a converted model come from: what is added is named after the value it stands behind."""

    def __init__(self, model: ir.Model, macs: Iterable[MacNode]) -> None:
        self._nodes = {node.name for node in model.graph}
        self._makers = {value.name: node.name for node in model.graph for value in node.outputs}
        self._readers: dict[str | None, list[str]] = {}
        for mac in macs:
            for index in mac.activations:
                value = mac.node.inputs[index]
                self._readers.setdefault(value.name if value is not None else None, []).append(mac.name)

    def owner(self, name: str) -> str | None:
        """Return the node of the float model that a node is, or stands behind."""
        return name if name in self._nodes else self._behind(name, self._makers)

    def readers(self, name: str) -> Collection[str]:
        """Return the products that read what an added node makes; nothing for a node of the float model."""
        return () if name in self._nodes else self._behind(name, self._readers) or ()

    def _behind(self, name: str, known: Mapping[Any, Any]) -> Any:
        while "." in name:
            name = name.rpartition(".")[0]
            if name in known:
                return known[name]
        return None


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
