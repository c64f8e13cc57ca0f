"""The precision stage: an FP32 ONNX becomes an FP16 or an INT8 one."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

import onnx
import onnx_ir as ir

from mmtrt.errors import BuildError, ModelError, SampleError, UsageError
from mmtrt.onnx_files import BUDGET_KEY, SPEC_KEY, model_spec, open_model, save_model, set_metadata
from mmtrt.precision.calibrating import Calibrated, Calibration
from mmtrt.precision.converted import PRECISION_KEY, Converted
from mmtrt.precision.fp16 import keep_fp32, to_fp16
from mmtrt.precision.graph import (
    MacNode,
    behind_dq,
    embedded,
    mac_nodes,
    module_of,
    typed,
    usual_shapes,
    with_weights_in,
)
from mmtrt.precision.lint import has_qdq, lint_qdq
from mmtrt.precision.observe import Observed
from mmtrt.precision.options import PrecisionOptions, check_options
from mmtrt.precision.placement import ModelOrigin, Priced, place
from mmtrt.precision.plan import Kept, Plan, make_plan
from mmtrt.precision.qdq import add_to_bias, insert_qdq
from mmtrt.precision.ranges import save_ranges
from mmtrt.precision.tune import Tuned, tune
from mmtrt.samples import FEW_SAMPLES, SampleSet, checked, open_set, shapes_profile
from mmtrt.samples.random import RANDOM, random_set
from mmtrt.tensors import ModelSpec

__all__ = ["Conversion", "Price", "convert"]

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
    if ranges_out is not None and conversion.found.saved is not None:
        save_ranges(conversion.found.saved, ranges_out)
    return made


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
        source: Path,
        spec: ModelSpec,
        options: PrecisionOptions,
        samples: SampleSet | None,
        note: Callable[[str], None],
    ) -> None:
        self._note = note
        self.notes: list[str] = []
        self.source = source
        self.folder = source.parent
        self.spec = spec
        self.options = options
        self.samples = samples
        shaped = typed(proto)
        self.model = with_weights_in(shaped, self.folder)
        self.usual = {name: span[1] for name, span in spec.ranges.items()}
        self.shapes = usual_shapes(shaped, self.usual)
        self.macs = mac_nodes(self.model, self.shapes)
        self.price: Price | None = None
        self.ranges_file: Path | None = None
        self.known: dict[object, Tuned] = {}
        self.found = Calibrated.nothing(self.model)
        self.plan = Plan(nodes=(), residuals=(), kept=())

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
        check_options(options)
        proto = open_model(source)
        spec = model_spec(proto)
        if samples == RANDOM:
            spec = _with_ranges(spec, None, ranges)
            opened: SampleSet | None = random_set(spec, count or FEW_SAMPLES)
        else:
            opened = open_set(samples, count=count) if isinstance(samples, str) else samples
            spec = _with_ranges(spec, opened, ranges)
        made = cls(proto, source, spec, options, opened, note)
        made.price, made.ranges_file = price, ranges_file
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
        if self.samples is None:
            raise SampleError(
                f"{self.options.precision} needs samples to see the ranges",
                fix="Give a set with --calib, or export with `mmtrt export`, which writes one beside the model.",
            )
        self.found = Calibration(
            self.model,
            self.source,
            self.spec,
            self.options,
            self.samples,
            macs=self.macs,
            shapes=self.shapes,
            ranges_file=self.ranges_file,
            tell=self.tell,
        ).run(self.plan)
        if self.options.coverage == "engine" and self.plan.nodes:
            self._place()

    @property
    def seen(self) -> Observed:
        """What the set showed."""
        return self.found.seen

    def tuned(self, plan: Plan | None = None) -> Tuned:
        """Return thresholds, weights and biases for a plan, the one that stands if none is given."""
        return tune(plan or self.plan, self.seen, self.options.method, self.options.refine, self.known)

    def _place(self) -> None:
        """Keep out of INT8 what the engine does not gain by."""
        price = self.price
        if price is None:
            raise UsageError("coverage 'engine' needs a builder", fix="Take 'wide' or 'full' where there is none.")
        origin = ModelOrigin(self.model, self.plan.nodes)
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
        stays = keep_fp32(self.model, self.seen.amax, known=self.found.bounds, masks=self.found.masks, keep=kept)
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
            calibration=self.found.record,
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
