"""The measurement that a recipe asks for beside the usual one: over sizes, in a scenario, against PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmtrt.bench.measure import Settings
from mmtrt.bench.scenarios import scenario_of
from mmtrt.errors import RecipeError, UsageError
from mmtrt.onnx_files import model_spec, open_model
from mmtrt.pipeline.bench_shapes import batch_name, check_sizes, scenario_sizes
from mmtrt.pipeline.benching import BenchRequest, bench_files
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.sides import cannot_run
from mmtrt.recipe import Recipe
from mmtrt.results import BenchResult, BuildResult
from mmtrt.tensors import ModelSpec

__all__ = ["bench_more", "check_recipe_sizes"]


def check_recipe_sizes(spec: ModelSpec, recipe: Recipe) -> None:
    """Raise RecipeError where the sweep names what the model has no size or no room for."""
    told = recipe.bench
    try:
        for name, sizes in told.sweep.items():
            for size in sizes:
                check_sizes(spec, {name: size})
        scenario_sizes(scenario_of(told.scenario), spec, {**told.sizes, **dict.fromkeys(told.sweep, None)})
    except UsageError as error:
        raise RecipeError(f"[bench]: {error.message}", fix=error.fix) from error


def bench_more(context: Context, recipe: Recipe, builds: Sequence[BuildResult]) -> BenchResult:
    """Measure the engines where they all run, else the ONNX files; never taken from a cache."""
    told = recipe.bench
    engines = [build.artifacts["engine"] for build in builds]
    here = all(cannot_run(Path(engine)) is None for engine in engines)
    first = Path(builds[0].artifacts["onnx"])
    return bench_files(
        context,
        BenchRequest(
            files=tuple(engines if here else [build.artifacts["onnx"] for build in builds]),
            settings=Settings(duration_s=told.duration_s, scenario=scenario_of(told.scenario)),
            sizes={**_alone(recipe, first), **told.sizes},
            sweeps=told.sweep,
            against=told.against,
            source=recipe.model.source if told.against else None,
            checkpoint=recipe.model.checkpoint if told.against else None,
        ),
    )


def _alone(recipe: Recipe, onnx: Path) -> dict[str, int]:
    """One event at a time, unless a sweep or a scenario says otherwise: what a device at the edge sees."""
    spec = model_spec(open_model(onnx))
    name = batch_name(spec)
    free = recipe.bench.scenario == "latency" and name not in recipe.bench.sweep
    return {name: 1} if name is not None and free and name in spec.ranges else {}
