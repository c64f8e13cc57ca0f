"""What a recipe asks of each stage, for all that runs its stages: `mmtrt run`, `mmtrt bundle`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmtrt.errors import MeasurementError, RecipeError
from mmtrt.export.exporter import CALIBRATION_SAMPLES, ExportOptions
from mmtrt.export.sources import Source
from mmtrt.parity.budget import Budget, check_heads, check_names
from mmtrt.parity.stress_budget import check_stress_names, split_budget
from mmtrt.pipeline.building import BuildRequest
from mmtrt.pipeline.checking import check_stage
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.exporting import ExportResult, export_stage
from mmtrt.pipeline.sides import Subject
from mmtrt.pipeline.targets import build_options, target_gpu
from mmtrt.recipe import Recipe, resolved
from mmtrt.results import CheckResult, plain
from mmtrt.samples import open_set

__all__ = ["budget_of", "build_request", "check_no_parts", "check_subjects", "export_recipe", "held", "out_folder"]


def out_folder(recipe: Recipe) -> Path:
    """Return where what a recipe makes is put, unless it is said."""
    return Path("engines/out") / recipe.name


def check_no_parts(recipe: Recipe) -> None:
    """Raise RecipeError where a recipe for a model in one speaks of parts."""
    if recipe.parts:
        raise RecipeError(
            f"the recipe has parts ({', '.join(recipe.parts)}), and {recipe.model.source} is a model in one",
            fix="Say it in [precision], or let the factory return a mmtrt.parts.Pipeline.",
        )


def export_recipe(context: Context, recipe: Recipe, source: Source) -> ExportResult:
    """Export a recipe's model in one part; UsageError where its budgets and heads name what the model has not."""
    own = None if recipe.calibration.set else recipe.calibration.count
    options = ExportOptions(
        calibration_samples=own or CALIBRATION_SAMPLES,
        opset=recipe.model.opset,
        ranges=dict(recipe.model.ranges),
        budget=budget_of(recipe, "fp32"),
        heads=recipe.parity.heads,
    )
    exported = export_stage(context, source, options)
    # A typing error in a budget should not cost the builds that come before the check.
    outputs = [tensor.name for tensor in exported.spec.outputs]
    check_heads(recipe.parity.heads, outputs)
    for precision in recipe.precision.build:
        samples, hard = split_budget(budget_of(recipe, precision))
        check_names(samples, outputs, recipe.parity.metrics, heads=recipe.parity.heads)
        check_stress_names(hard, outputs)
    return exported


def build_request(recipe: Recipe, exported: ExportResult, folder: Path, precision: str) -> BuildRequest:
    """Return what a recipe wants built of its export in a precision."""
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
        budget=budget_of(recipe, precision),
        recipe=plain(resolved(recipe)),
    )


def budget_of(recipe: Recipe, precision: str) -> Budget:
    """Return the budget that a recipe gives for a precision."""
    given: Mapping[str, Budget] = recipe.parity.budget  # type: ignore[assignment]  # its keys are literals
    return given.get(precision, {})


def check_subjects(
    context: Context, recipe: Recipe, reference: Subject, exported: ExportResult, subjects: Sequence[Subject]
) -> list[CheckResult]:
    """Hold what was built against the module, over the recipe's parity set and its hard cases."""
    told = recipe.parity
    return check_stage(
        context,
        reference,
        subjects,
        open_set(told.set or str(exported.golden), count=told.count),
        budgets={precision: budget_of(recipe, precision) for precision in recipe.precision.build},
        metrics=told.metrics,
        heads=told.heads,
        stress=told.stress,
    )


_TOLD = 3


def held(checks: Sequence[CheckResult], otherwise: str) -> None:
    """Raise MeasurementError where a check did not pass; `otherwise` says what was not done then."""
    for check in checks:
        if check.verdict in {"pass", "not run"}:
            continue
        rows = [(name, row) for name, row in check.outputs.items() if row.verdict != "pass"]
        rows += [
            (f"{case.kind} {case.name}: {name}", row)
            for case in check.stress
            for name, row in case.outputs.items()
            if row.verdict in {"fail", "inconclusive"}
        ]
        told = "; ".join(f"{name}: {', '.join(row.why) or row.verdict}" for name, row in rows[:_TOLD]) or check.note
        more = f" (and {len(rows) - _TOLD} more)" if len(rows) > _TOLD else ""
        state = "out of budget" if check.verdict == "fail" else check.verdict
        raise MeasurementError(
            f"{otherwise}: {check.candidate.what} is {state}: {told}{more}",
            fix="`mmtrt run` of the recipe shows all of it; leave the precision out, or change what is kept.",
        )
