"""`mmtrt triton RECIPE.toml`: the recipe's stages, and a model repository for NVIDIA Triton of what they made."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmtrt
from mmtrt.errors import UsageError
from mmtrt.export.parts import PipelineSource, open_source
from mmtrt.parity.verdict import whole_verdict
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.recipe_stages import check_no_parts, held
from mmtrt.pipeline.triton_models import check_part_names, one_model, part_models, part_name
from mmtrt.pipeline.triton_stages import choose_backend, ready_one, ready_parts
from mmtrt.recipe import Recipe, resolved
from mmtrt.results import CheckResult, plain
from mmtrt.triton.ensemble import check_no_step
from mmtrt.triton.repository import Model, check_repository, write_repository

__all__ = ["TritonResult", "serve_recipe", "triton_view"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonResult:
    """What lies in the repository now: a row a model, and the checks that what it runs has passed."""

    repository: str
    models: tuple[Mapping[str, Any], ...]
    checks: tuple[CheckResult, ...]
    recipe: Recipe
    wall_s: float

    def to_json(self) -> dict[str, Any]:
        """Return `mmtrt.triton/1`."""
        return {
            "schema": "mmtrt.triton/1",
            "mmtrt": mmtrt.__version__,
            "recipe": plain(resolved(self.recipe)),
            "repository": self.repository,
            "models": [dict(model) for model in self.models],
            "verdict": whole_verdict(check.verdict for check in self.checks),
            "checks": [check.to_json() for check in self.checks],
            "wall_s": round(self.wall_s, 3),
        }


def serve_recipe(context: Context, recipe: Recipe, repository: Path) -> TritonResult:
    """Export, convert, build and check what a recipe says, and put it into a model repository.

    UsageError where the repository holds something else, MeasurementError where parity is out of budget: nothing is
    written then. RecipeError where a part is run again and again, once its parts are written: there is no ensemble.
    """
    start = time.perf_counter()
    _check_no_module(repository)
    check_repository(repository, [recipe.name])
    backend = choose_backend(context, recipe)
    source = open_source(recipe.model.source, recipe.model.checkpoint)
    wiring = None
    if isinstance(source, PipelineSource):
        check_part_names(source)
        check_repository(repository, [part_name(recipe, part) for part in source.parts])
        parts = ready_parts(context, recipe, source, backend)
        checks = [*(check for ready in parts.parts.values() for check in ready.checks), *parts.checks]
        held(checks, "nothing was written")
        models, wiring = part_models(recipe, backend, parts), parts.exported.wiring
    else:
        check_no_parts(recipe)
        ready = ready_one(context, recipe, source, backend)
        checks = list(ready.checks)
        held(checks, "nothing was written")
        models = [one_model(recipe, backend, ready)]
    context.stage(f"write {', '.join(model.name for model in models)} to {repository}")
    folders = write_repository(repository, models)
    if wiring is not None and recipe.triton.ensemble:
        check_no_step(recipe.name, wiring, [model.name for model in models])
    return TritonResult(
        repository=str(repository),
        models=tuple(_row(model, folder) for model, folder in zip(models, folders, strict=True)),
        checks=tuple(checks),
        recipe=recipe,
        wall_s=time.perf_counter() - start,
    )


def _check_no_module(repository: Path) -> None:
    """Raise UsageError at a folder that Python would take for the package triton, which PyTorch looks for."""
    if repository.resolve() == Path.cwd() / "triton":
        raise UsageError(
            "a folder called 'triton' in the current one hides the package of this name from PyTorch, which then "
            "exports nothing",
            fix="Call it otherwise: -o repository.",
        )


def triton_view(result: TritonResult) -> dict[str, str]:
    """Return names and values for people."""
    rows = {"repository": result.repository}
    for row in result.models:
        batch = f"batches of up to {row['max_batch_size']}" if row["max_batch_size"] else "requests as they come"
        rows[row["name"]] = f"version {row['version']}, {row['platform']}, {batch}, {row['bytes'] / 1e6:.2f} MB"
    rows["parity"] = ", ".join(f"{c.candidate.what}: {c.verdict}" for c in result.checks)
    return rows


def _row(model: Model, folder: Path) -> dict[str, Any]:
    return {
        "name": model.name,
        "version": model.version,
        "folder": str(folder),
        "files": model.paths,
        "bytes": sum((folder / path).stat().st_size for path in model.paths),
        **plain(dict(model.interface)),
        **plain(dict(model.about)),
    }
