"""`mmtrt run RECIPE.toml`: every stage in order, and one document of what came out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmtrt
from mmtrt.artifacts import read_json, write_json
from mmtrt.export.exporter import ExportOptions
from mmtrt.export.sources import load_source
from mmtrt.machine import machine
from mmtrt.parity.budget import Budget, check_names, default_budget
from mmtrt.pipeline.benching import bench_feeds, bench_stage
from mmtrt.pipeline.building import BuildRequest, build_stage
from mmtrt.pipeline.checking import check_stage, not_run
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.exporting import ExportResult, export_stage, publish_export
from mmtrt.pipeline.sides import Subject, cannot_run, open_subject
from mmtrt.pipeline.sources import module_subject
from mmtrt.pipeline.targets import build_options, target_gpu
from mmtrt.recipe import Recipe, resolved
from mmtrt.results import BenchResult, BuildResult, CheckResult, plain
from mmtrt.samples import open_set
from mmtrt.tensors import Feeds

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

    @property
    def within_budget(self) -> bool:
        """No check failed; an engine that could not run has no verdict, and fails nothing."""
        return all(check.verdict in {"pass", "not run"} for check in self.checks)

    @property
    def cached(self) -> bool:
        """Nothing had to be done."""
        checks = [check.cached for check in self.checks if check.verdict != "not run"]
        stages = [self.export.cached, *(build.cached for build in self.builds), *checks, self.bench.cached]
        return all(stages) and self.engine_bench is None

    def to_json(self) -> dict[str, Any]:
        """Return `mmtrt.run/1`."""
        return {
            "schema": "mmtrt.run/1",
            "mmtrt": mmtrt.__version__,
            "recipe": plain(resolved(self.recipe)),
            "verdict": "pass" if self.within_budget else "fail",
            "export": self.export.to_json(),
            "builds": [build.to_json() for build in self.builds],
            "checks": [check.to_json() for check in self.checks],
            "bench": self.bench.to_json(),
            "engine_bench": self.engine_bench.to_json() if self.engine_bench else None,
            "cached": self.cached,
            "wall_s": round(self.wall_s, 3),
        }


def run_recipe(context: Context, recipe: Recipe, folder: Path) -> RunResult:
    """Export, convert, build, check and measure; files and `report.json` appear in `folder`."""
    start = time.perf_counter()
    source = load_source(recipe.model.source)
    options = ExportOptions(opset=recipe.model.opset, ranges=dict(recipe.model.ranges), budget=_budget(recipe, "fp32"))
    exported = publish_export(export_stage(context, source, options), folder, recipe.name)
    for precision in recipe.precision.build:
        # A typing error in a budget should not cost the builds that come before the check.
        check_names(_budget(recipe, precision), [t.name for t in exported.spec.outputs], recipe.parity.metrics)
    builds = tuple(build_stage(context, _request(recipe, exported, folder, p)) for p in recipe.precision.build)
    reference = module_subject(source)
    checks = _checks(context, recipe, reference, exported, builds)
    feeds = bench_feeds(exported.spec, _bench_sizes(recipe, exported), open_set(str(exported.golden)))
    bench = _bench(context, recipe, reference, feeds, builds)
    engine_bench = _engine_bench(context, recipe, feeds, builds)
    result = RunResult(
        recipe=recipe,
        export=exported,
        builds=builds,
        checks=checks,
        bench=bench,
        engine_bench=engine_bench,
        wall_s=time.perf_counter() - start,
    )
    write_json(folder / "report.json", result.to_json())
    return result


def _request(recipe: Recipe, exported: ExportResult, folder: Path, precision: str) -> BuildRequest:
    return BuildRequest(
        model=exported.onnx,
        folder=folder,
        precision=precision,
        samples=recipe.calibration.set or str(exported.calibration),
        count=recipe.calibration.count,
        method=recipe.precision.method,
        coverage=recipe.precision.coverage,
        refine=recipe.precision.refine,
        keep=recipe.precision.keep,
        options=build_options(recipe.target.flavor, recipe.target.name),
        gpu=target_gpu(recipe.target.name),
        name=recipe.name,
        budget=_budget(recipe, precision),
        recipe=plain(resolved(recipe)),
    )


def _budget(recipe: Recipe, precision: str) -> Budget:
    given: Mapping[str, Budget] = recipe.parity.budget  # type: ignore[assignment]  # its keys are literals
    return given.get(precision) or default_budget(precision)


def _checks(
    context: Context,
    recipe: Recipe,
    reference: Subject,
    exported: ExportResult,
    builds: tuple[BuildResult, ...],
) -> tuple[CheckResult, ...]:
    samples = open_set(recipe.parity.set or str(exported.golden), count=recipe.parity.count)
    engines = [(Path(build.artifacts["engine"]), build.precision) for build in builds]
    runnable = [str(engine) for engine, _ in engines if cannot_run(engine) is None]
    subjects = [open_subject(build.artifacts["onnx"]) for build in builds]
    subjects += [open_subject(engine) for engine in runnable]
    budgets: dict[str, Budget] = {precision: _budget(recipe, precision) for precision in recipe.precision.build}
    checks = check_stage(context, reference, subjects, samples, budgets=budgets, metrics=recipe.parity.metrics)
    rest = [not_run(e, p, checks[0].reference) for e, p in engines if str(e) not in runnable]
    return (*checks, *rest)


def _bench_sizes(recipe: Recipe, exported: ExportResult) -> dict[str, int]:
    """One event at a time, unless the recipe says otherwise: what a device at the edge sees."""
    alone = {"batch": 1} if "batch" in exported.spec.ranges else {}
    return {**alone, **recipe.bench.sizes}


def _bench(
    context: Context, recipe: Recipe, reference: Subject, feeds: Feeds, builds: tuple[BuildResult, ...]
) -> BenchResult:
    """Measure PyTorch and the ONNX files on the CPU; cached for this very machine."""
    subjects = [reference, *(open_subject(build.artifacts["onnx"]) for build in builds)]
    parts = {
        "subjects": [subject.key for subject in subjects],
        "names": [subject.what for subject in subjects],
        "shapes": {name: list(array.shape) for name, array in feeds.items()},
        "duration_s": recipe.bench.duration_s,
        "machine": plain(machine()),
    }

    def work(into: Path) -> None:
        result = bench_stage(context, subjects, feeds, duration_s=recipe.bench.duration_s)
        write_json(into / "result.json", result.to_json())

    kept, cached = context.cache.run("bench", parts, work)
    engines = [Path(build.artifacts["engine"]) for build in builds]
    not_measured = {str(engine): why for engine in engines if (why := cannot_run(engine)) is not None}
    return BenchResult.from_json(read_json(kept / "result.json"), not_run=not_measured, cached=cached)


def _engine_bench(
    context: Context, recipe: Recipe, feeds: Feeds, builds: tuple[BuildResult, ...]
) -> BenchResult | None:
    """Measure the engines where they run; a GPU's time is never taken from a cache."""
    engines = [build.artifacts["engine"] for build in builds if cannot_run(Path(build.artifacts["engine"])) is None]
    if not engines:
        return None
    return bench_stage(context, [open_subject(e) for e in engines], feeds, duration_s=recipe.bench.duration_s)
