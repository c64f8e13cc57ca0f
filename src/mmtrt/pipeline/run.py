"""`mmtrt run RECIPE.toml`: every stage in order, and one document of what came out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType

import mmtrt
from mmtrt.artifacts import write_json
from mmtrt.export.parts import PipelineSource, open_source
from mmtrt.export.sources import Source
from mmtrt.parity.verdict import whole_verdict
from mmtrt.pipeline.bench_kept import bench_built
from mmtrt.pipeline.bench_recipe import bench_more, check_recipe_sizes
from mmtrt.pipeline.benching import bench_feeds
from mmtrt.pipeline.building import build_stage
from mmtrt.pipeline.checking import not_run
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.exporting import ExportResult, publish_export
from mmtrt.pipeline.parts_run import PartsRunResult, run_parts
from mmtrt.pipeline.recipe_stages import build_request, check_no_parts, check_subjects, export_recipe
from mmtrt.pipeline.sides import Subject, cannot_run, open_subject
from mmtrt.pipeline.sources import module_subject
from mmtrt.recipe import Recipe, resolved
from mmtrt.report.bench import bench_view
from mmtrt.report.terminal import run_view
from mmtrt.results import BenchResult, BuildResult, CheckResult, plain
from mmtrt.samples import open_set

__all__ = ["RunResult", "run_recipe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What all stages of a recipe gave; `within_budget` is the verdict of the whole."""

    recipe: Recipe
    export: ExportResult
    builds: tuple[BuildResult, ...]
    checks: tuple[CheckResult, ...]
    bench: BenchResult
    engine_bench: BenchResult | None
    wall_s: float
    bench_more: BenchResult | None = None

    @property
    def within_budget(self) -> bool:
        """No check failed; an engine that could not run has no verdict, and fails nothing."""
        return all(check.verdict in {"pass", "not run"} for check in self.checks)

    @property
    def cached(self) -> bool:
        """Nothing had to be done."""
        checks = [check.cached for check in self.checks if check.verdict != "not run"]
        stages = [self.export.cached, *(build.cached for build in self.builds), *checks, self.bench.cached]
        return all(stages) and self.engine_bench is None and self.bench_more is None

    def to_json(self) -> dict[str, Any]:
        """Return `mmtrt.run/1`."""
        return {
            "schema": "mmtrt.run/1",
            "mmtrt": mmtrt.__version__,
            "recipe": plain(resolved(self.recipe)),
            "verdict": whole_verdict(check.verdict for check in self.checks),
            "export": self.export.to_json(),
            "builds": [build.to_json() for build in self.builds],
            "checks": [check.to_json() for check in self.checks],
            "bench": self.bench.to_json(),
            "engine_bench": self.engine_bench.to_json() if self.engine_bench else None,
            "bench_more": self.bench_more.to_json() if self.bench_more else None,
            "cached": self.cached,
            "wall_s": round(self.wall_s, 3),
        }

    def view(self) -> RenderableType:
        """Return the table for the terminal."""
        shown = run_view(self.builds, self.checks, self.bench, self.engine_bench)
        return shown if self.bench_more is None else Group(shown, "", bench_view(self.bench_more))


def run_recipe(context: Context, recipe: Recipe, folder: Path) -> RunResult | PartsRunResult:
    """Export, convert, build, check and measure; files and `report.json` appear in `folder`."""
    source = open_source(recipe.model.source, recipe.model.checkpoint)
    if isinstance(source, PipelineSource):
        return run_parts(context, recipe, source, folder)
    check_no_parts(recipe)
    return _run_one(context, recipe, source, folder)


def _run_one(context: Context, recipe: Recipe, source: Source, folder: Path) -> RunResult:
    start = time.perf_counter()
    exported = publish_export(export_recipe(context, recipe, source), folder, recipe.name)
    check_recipe_sizes(exported.spec, recipe)
    builds = tuple(build_stage(context, build_request(recipe, exported, folder, p)) for p in recipe.precision.build)
    reference = module_subject(source)
    checks = _checks(context, recipe, reference, exported, builds)
    feeds = bench_feeds(exported.spec, _bench_sizes(recipe, exported), open_set(str(exported.golden)))
    bench, engine_bench = bench_built(context, reference, builds, feeds, duration_s=recipe.bench.duration_s)
    more = bench_more(context, recipe, builds) if recipe.bench.more else None
    result = RunResult(
        recipe=recipe,
        export=exported,
        builds=builds,
        checks=checks,
        bench=bench,
        engine_bench=engine_bench,
        bench_more=more,
        wall_s=time.perf_counter() - start,
    )
    write_json(folder / "report.json", result.to_json())
    return result


def _checks(
    context: Context,
    recipe: Recipe,
    reference: Subject,
    exported: ExportResult,
    builds: tuple[BuildResult, ...],
) -> tuple[CheckResult, ...]:
    engines = [(Path(build.artifacts["engine"]), build.precision) for build in builds]
    runnable = [str(engine) for engine, _ in engines if cannot_run(engine) is None]
    subjects = [open_subject(build.artifacts["onnx"]) for build in builds]
    subjects += [open_subject(engine) for engine in runnable]
    checks = check_subjects(context, recipe, reference, exported, subjects)
    rest = [not_run(e, p, checks[0].reference) for e, p in engines if str(e) not in runnable]
    return (*checks, *rest)


def _bench_sizes(recipe: Recipe, exported: ExportResult) -> dict[str, int]:
    """One event at a time, unless the recipe says otherwise: what a device at the edge sees."""
    alone = {"batch": 1} if "batch" in exported.spec.ranges else {}
    return {**alone, **recipe.bench.sizes}
