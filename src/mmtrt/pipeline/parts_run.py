"""`mmtrt run` of a recipe for a source in several parts: all stages of each part, then of all of them together.

A chain is the pipeline in one precision; a part that must not be as narrow as the others is wider in it. A part is
calibrated on what the converted parts before it really give it, in the narrowest chain that it stands in.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import RenderableType

import mmtrt
from mmtrt.artifacts import write_json
from mmtrt.errors import BuildError, ModelError, RecipeError
from mmtrt.export.parts import PipelineSource
from mmtrt.parity.budget import Budget, check_heads, check_names
from mmtrt.parity.phrases import chain_budget
from mmtrt.parity.stress_budget import check_stress_names, split_budget
from mmtrt.parity.verdict import whole_verdict
from mmtrt.parts.manifest import Manifest, write_manifest
from mmtrt.parts.wiring import nearest
from mmtrt.pipeline.building import BuildRequest, build_stage
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.exporting import place_samples
from mmtrt.pipeline.parts_checks import (
    OF_A_PART,
    Ends,
    bench_chains,
    bench_part,
    check_chains,
    check_part,
    parity_events,
)
from mmtrt.pipeline.parts_export import PartsExport, export_parts, module_subjects, publish_parts
from mmtrt.pipeline.parts_flow import Flow, events_of
from mmtrt.pipeline.sides import Subject, open_subject
from mmtrt.pipeline.targets import build_options, target_gpu
from mmtrt.recipe import Recipe, Stored, resolved
from mmtrt.report.parts import PartRow, parts_run_view
from mmtrt.results import BenchResult, BuildResult, CheckResult, plain

__all__ = [
    "PartsRunResult",
    "check_outputs_known",
    "check_parts_known",
    "part_budget",
    "part_request",
    "run_parts",
    "whole_budget",
]

_NARROWEST_FIRST: tuple[Stored, ...] = ("int8", "fp16", "fp32")
Builds = Mapping[str, Mapping[Stored, BuildResult]]
"""By part and precision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartsRunResult:
    """What all stages gave, per part and end to end; `chains` says what precision each part has in which chain."""

    recipe: Recipe
    export: PartsExport
    parts: Mapping[str, PartRow]
    chains: Mapping[str, Mapping[str, str]]
    checks: tuple[CheckResult, ...]
    bench: BenchResult
    engine_bench: BenchResult | None
    wall_s: float

    @property
    def within_budget(self) -> bool:
        """No check failed, of no part and not end to end; what could not run has no verdict."""
        return all(check.verdict in {"pass", "not run"} for check in self._all_checks)

    @property
    def _all_checks(self) -> tuple[CheckResult, ...]:
        return (*self.checks, *(check for part in self.parts.values() for check in part.checks))

    @property
    def cached(self) -> bool:
        """Nothing had to be done."""
        checks = [c.cached for c in self.checks if c.verdict != "not run"]
        parts = [part.cached for part in self.parts.values()]
        return self.export.cached and all([*checks, *parts, self.bench.cached]) and self.engine_bench is None

    def to_json(self) -> dict[str, Any]:
        """Return `mmtrt.run-parts/1`."""
        return {
            "schema": "mmtrt.run-parts/1",
            "mmtrt": mmtrt.__version__,
            "recipe": plain(resolved(self.recipe)),
            "verdict": whole_verdict(check.verdict for check in self._all_checks),
            "export": self.export.to_json(),
            "parts": {name: part.to_json() for name, part in self.parts.items()},
            "chains": {name: dict(parts) for name, parts in self.chains.items()},
            "checks": [check.to_json() for check in self.checks],
            "bench": self.bench.to_json(),
            "engine_bench": self.engine_bench.to_json() if self.engine_bench else None,
            "cached": self.cached,
            "wall_s": round(self.wall_s, 3),
        }

    def view(self) -> RenderableType:
        """Return the tables for the terminal."""
        return parts_run_view(self.parts, self.chains, self.checks, self.bench, self.engine_bench)


def run_parts(context: Context, recipe: Recipe, source: PipelineSource, folder: Path) -> PartsRunResult:
    """Export, convert, build, check and measure all parts; files and `report.json` appear in `folder`."""
    start = time.perf_counter()
    check_parts_known(recipe, source)
    if recipe.bench.more:
        raise RecipeError(
            f"{recipe.model.source} is a pipeline of parts, which are measured at one shape",
            fix="Leave sweep, scenario and against out of [bench]; `mmtrt bench` measures each part's files.",
        )
    events = events_of(source, recipe.calibration.set, recipe.calibration.count)
    exported = export_parts(
        context,
        source,
        opset=recipe.model.opset,
        ranges=recipe.model.ranges,
        budgets={part: part_budget(recipe, part, "fp32") for part in source.parts},
        events=events,
    )
    exported = publish_parts(exported, folder, recipe.name)
    check_outputs_known(recipe, exported)
    chains = {chain: {p: recipe.part(p).precision_in(chain) for p in source.parts} for chain in recipe.precision.build}
    builds = _build(context, recipe, exported, chains, folder)
    write_manifest(_described(exported, builds, chains), folder)
    modules = module_subjects(source)
    parts = _each(context, recipe, exported, modules, builds)
    ends: Ends = {chain: {part: builds[part][p] for part, p in own.items()} for chain, own in chains.items()}
    budgets: dict[str, Budget] = {chain: whole_budget(recipe, exported, chain) for chain in chains}
    checks = check_chains(context, recipe, exported, modules, ends, budgets)
    bench, engine_bench = bench_chains(context, recipe, exported, modules, ends)
    result = PartsRunResult(
        recipe=recipe,
        export=exported,
        parts=parts,
        chains={str(chain): own for chain, own in chains.items()},
        checks=checks,
        bench=bench,
        engine_bench=engine_bench,
        wall_s=time.perf_counter() - start,
    )
    write_json(folder / "report.json", result.to_json())
    return result


def _each(
    context: Context, recipe: Recipe, exported: PartsExport, modules: Mapping[str, Subject], builds: Builds
) -> dict[str, PartRow]:
    """Check and measure each part alone, on what the modules before it give it."""
    flow = Flow(context, exported.source.wiring, parity_events(recipe, exported))
    flow.subjects |= modules
    parts: dict[str, PartRow] = {}
    for name, result in exported.parts.items():
        own = tuple(builds[name].values())
        budgets: dict[str, Budget] = {precision: part_budget(recipe, name, precision) for precision in builds[name]}
        kinds = [kind for kind in recipe.parity.stress if kind in OF_A_PART]
        checks = check_part(context, modules[name], own, flow.feeds(name), budgets, kinds)
        bench, engine_bench = bench_part(context, recipe, modules[name], result, own)
        parts[name] = PartRow(
            export=result.to_json(), builds=own, checks=checks, bench=bench, engine_bench=engine_bench
        )
    return parts


def part_budget(recipe: Recipe, part: str, precision: Stored) -> Budget:
    """Return what a part alone may differ by from its module."""
    return recipe.part(part).budget.get(precision, {})


def whole_budget(recipe: Recipe, exported: PartsExport, chain: Stored) -> Budget:
    """Return what the pipeline may differ by from its modules, end to end."""
    return chain_budget(chain, exported.wiring.step, recipe.parity.budget.get(chain))


def check_parts_known(recipe: Recipe, source: PipelineSource) -> None:
    """Raise RecipeError where a recipe speaks of a part that there is none."""
    for part in recipe.parts:
        if part not in source.parts:
            raise RecipeError(
                f"the recipe has a part {part!r}, and {source.reference} has none of this name",
                fix=nearest(part, source.parts, "Its parts are"),
            )


def check_outputs_known(recipe: Recipe, exported: PartsExport) -> None:
    """Refuse a budget for an output that there is none, or for phrases of none, before anything is built."""
    step = exported.wiring.step
    generated = [step.logits] if step else []
    whole = [*exported.wiring.outputs, *generated]
    check_heads(recipe.parity.heads, whole)
    for output in recipe.parity.metrics:
        if output not in whole:
            raise RecipeError(
                f"task metrics are given for {output!r}, which is no output of the pipeline",
                fix=nearest(output, whole, "Its outputs are"),
            )
    for chain in recipe.precision.build:
        samples, hard = split_budget(whole_budget(recipe, exported, chain))
        for key in hard:
            raise RecipeError(
                f"the budget {key!r} is for hard cases, and a pipeline end to end has none",
                fix="Its parts have: put it under [parts.NAME.budget].",
            )
        check_names(samples, whole, recipe.parity.metrics, phrases=generated, heads=recipe.parity.heads)
    for part, spec in exported.wiring.parts.items():
        for budget in recipe.part(part).budget.values():
            samples, hard = split_budget(budget)
            outputs = [tensor.name for tensor in spec.outputs]
            check_names(samples, outputs)
            check_stress_names(hard, outputs)


def _build(
    context: Context, recipe: Recipe, exported: PartsExport, chains: Mapping[Stored, Mapping[str, Stored]], folder: Path
) -> Builds:
    """Build each part in each of its precisions once, calibrated for the narrowest chain that has it."""
    made: dict[str, dict[Stored, BuildResult]] = {part: {} for part in exported.parts}
    step = exported.wiring.step
    for chain in (chain for chain in _NARROWEST_FIRST if chain in chains):
        flow = Flow(context, exported.wiring, exported.events)
        for part, precision in chains[chain].items():
            if precision not in made[part]:
                if step is not None and step.part == part:
                    flow.subjects[part] = open_subject(str(exported.parts[part].onnx))
                samples = None
                if precision != "fp32":
                    samples = place_samples(flow.feeds(part), folder / f"{recipe.name}.{part}.{precision}.calib")
                request = part_request(recipe, exported, part, precision, folder, samples)
                made[part][precision] = _built(context, request, part)
            flow.subjects[part] = open_subject(made[part][precision].artifacts["onnx"])
    # As a recipe lists them.
    return {part: {p: found[p] for p in reversed(_NARROWEST_FIRST) if p in found} for part, found in made.items()}


def _built(context: Context, request: BuildRequest, part: str) -> BuildResult:
    """Build a part; an error names it, and how to leave it wider than the others."""
    try:
        return build_stage(context, request)
    except (ModelError, BuildError) as error:
        wider = f'It may stay wider than the others: [parts.{part}] narrowest = "fp16".'
        mends = [error.fix, wider if request.precision == "int8" else None]
        raise type(error)(f"part {part!r}: {error.message}", fix=" ".join(filter(None, mends)) or None) from error


def part_request(
    recipe: Recipe, exported: PartsExport, part: str, precision: Stored, folder: Path, samples: Path | None
) -> BuildRequest:
    """Return what a recipe wants built of a part, calibrated on what it is fed."""
    how = recipe.precision_of(part)
    return BuildRequest(
        model=exported.parts[part].onnx,
        folder=folder,
        precision=precision,
        samples=None if samples is None else str(samples),
        method=how.method,
        coverage=how.coverage,
        refine=how.refine,
        keep=how.keep,
        options=build_options(recipe.target.flavor, recipe.target.name),
        gpu=target_gpu(recipe.target.name),
        name=f"{recipe.name}.{part}",
        budget=part_budget(recipe, part, precision),
        recipe=plain(resolved(recipe)),
    )


def _described(exported: PartsExport, builds: Builds, chains: Mapping[Stored, Mapping[str, Stored]]) -> Manifest:
    files: dict[str, dict[str, dict[str, str]]] = {
        part: {
            str(precision): {kind: Path(build.artifacts[kind]).name for kind in ("onnx", "engine")}
            for precision, build in own.items()
        }
        for part, own in builds.items()
    }
    return replace(exported.described(), files=files, chains={str(chain): dict(own) for chain, own in chains.items()})
