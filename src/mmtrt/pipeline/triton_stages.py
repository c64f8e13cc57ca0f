"""What a Triton server is to run: the recipe's stages in the one precision that is served, held to its budgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmtrt.engine import manifest as manifests
from mmtrt.engine.flavours import choose
from mmtrt.errors import BuildError, MachineError, ModelError
from mmtrt.export.parts import PipelineSource
from mmtrt.export.sources import Source
from mmtrt.pipeline.building import Prepared, prepare_stage
from mmtrt.pipeline.checking import check_stage
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.engine_stage import ENGINE, engine_stage
from mmtrt.pipeline.parts_checks import OF_A_PART, check_chain_subjects, parity_events
from mmtrt.pipeline.parts_export import PartsExport, export_parts, module_subjects
from mmtrt.pipeline.parts_flow import Flow, events_of
from mmtrt.pipeline.parts_run import (
    check_outputs_known,
    check_parts_known,
    part_budget,
    part_request,
    whole_budget,
)
from mmtrt.pipeline.parts_subject import chain_subject
from mmtrt.pipeline.recipe_stages import build_request, check_subjects, export_recipe
from mmtrt.pipeline.sides import Subject, cannot_run, open_subject
from mmtrt.pipeline.sources import module_subject
from mmtrt.pipeline.targets import build_options
from mmtrt.recipe import Recipe
from mmtrt.results import CheckResult
from mmtrt.samples import SampleSet, open_set
from mmtrt.tensors import ModelSpec
from mmtrt.triton.config import Backend, Served, model_config

__all__ = ["Parts", "Ready", "choose_backend", "ready_one", "ready_parts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A model, or a part of one, in the precision that is served; `golden` holds what it is fed.

    `engine` is TensorRT's, None where the server is to run the ONNX.
    """

    made: Prepared
    golden: SampleSet
    engine: Path | None = None
    checks: tuple[CheckResult, ...] = ()
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """All parts of a pipeline, in their order, and the checks end to end."""

    exported: PartsExport
    parts: Mapping[str, Ready]
    checks: tuple[CheckResult, ...]


def choose_backend(context: Context, recipe: Recipe) -> Backend:
    """Return what a server is to run the model with.

    "auto" is TensorRT where it would build the recipe's engine here; MachineError where the recipe asks for it and this
    machine can't. TensorRT-RTX builds anywhere, and Triton has no backend for it.
    """
    wanted = recipe.triton.backend
    if wanted == "onnx" or recipe.triton.kind == "cpu":
        return "onnxruntime"
    if wanted == "tensorrt":
        choose("tensorrt")
        return "tensorrt"
    try:
        flavour = choose(build_options(recipe.target.flavor, recipe.target.name).flavor)
    except MachineError as error:
        context.note(f"the server runs the ONNX: {error.message}")
        return "onnxruntime"
    if flavour.name != "tensorrt":
        context.note(f"the server runs the ONNX: here {flavour} builds, and Triton runs no engines of it")
        return "onnxruntime"
    return "tensorrt"


def ready_one(context: Context, recipe: Recipe, source: Source, backend: Backend) -> Ready:
    """Export, convert, build and check a model in one part."""
    exported = export_recipe(context, recipe, source)
    _check_servable(recipe, recipe.name, backend, exported.spec)
    precision = recipe.served_precision
    # Only the names of files are made of the folder: nothing is put there.
    made = prepare_stage(context, build_request(recipe, exported, Path(), precision))
    engine = _engine(context, recipe, made) if backend == "tensorrt" else None
    subjects = _subjects(made, engine, recipe.name)
    checks = check_subjects(context, recipe, module_subject(source), exported, subjects)
    return Ready(
        made=made,
        golden=open_set(str(exported.golden)),
        engine=engine,
        checks=tuple(checks),
        labels=_labels(source),
    )


def ready_parts(context: Context, recipe: Recipe, source: PipelineSource, backend: Backend) -> Parts:
    """Export, convert, build and check all parts in the chain that is served, each alone and all of them end to end."""
    check_parts_known(recipe, source)
    exported = export_parts(
        context,
        source,
        opset=recipe.model.opset,
        ranges=recipe.model.ranges,
        budgets={part: part_budget(recipe, part, "fp32") for part in source.parts},
        events=events_of(source, recipe.calibration.set, recipe.calibration.count),
    )
    check_outputs_known(recipe, exported)
    for part, spec in exported.wiring.parts.items():
        _check_servable(recipe, part, backend, spec)
    made = _prepared(context, recipe, exported)
    engines = {part: _engine(context, recipe, one) if backend == "tensorrt" else None for part, one in made.items()}
    modules = module_subjects(source)
    flow = Flow(context, exported.source.wiring, parity_events(recipe, exported))
    flow.subjects |= modules
    parts = {
        part: replace(
            _ready_part(context, recipe, part, made[part], engines[part], modules[part], flow),
            labels=_labels(source.parts[part]),
        )
        for part in exported.parts
    }
    checks = _end_to_end(context, recipe, exported, modules, parts)
    return Parts(exported=exported, parts=parts, checks=checks)


def _check_servable(recipe: Recipe, name: str, backend: Backend, spec: ModelSpec) -> None:
    """Raise now what a configuration of it would: before the minutes that calibration and parity take."""
    model_config(Served(name=name, backend=backend, spec=spec, settings=recipe.triton))


# ---------------------------------------------------------------------------------------------------- each part


def _prepared(context: Context, recipe: Recipe, exported: PartsExport) -> dict[str, Prepared]:
    """Convert each part, calibrated on what the converted parts before it give it."""
    made: dict[str, Prepared] = {}
    flow = Flow(context, exported.wiring, exported.events)
    step = exported.wiring.step
    for part in exported.parts:
        precision = recipe.part(part).precision_in(recipe.served_precision)
        if step is not None and step.part == part:
            flow.subjects[part] = open_subject(str(exported.parts[part].onnx))
        samples = None if precision == "fp32" else flow.feeds(part)
        try:
            made[part] = prepare_stage(context, part_request(recipe, exported, part, precision, Path(), samples))
        except (ModelError, BuildError) as error:
            raise type(error)(f"part {part!r}: {error.message}", fix=error.fix) from error
        flow.subjects[part] = open_subject(str(made[part].onnx))
    return made


def _ready_part(
    context: Context,
    recipe: Recipe,
    part: str,
    made: Prepared,
    engine: Path | None,
    module: Subject,
    flow: Flow,
) -> Ready:
    golden = open_set(str(flow.feeds(part)))
    checks = check_stage(
        context,
        module,
        _subjects(made, engine, f"{recipe.name}.{part}"),
        golden,
        budgets={made.precision: part_budget(recipe, part, made.precision)},  # type: ignore[arg-type]  # one of three
        stress=[kind for kind in recipe.parity.stress if kind in OF_A_PART],
    )
    return Ready(made=made, golden=golden, engine=engine, checks=tuple(checks))


def _end_to_end(
    context: Context,
    recipe: Recipe,
    exported: PartsExport,
    modules: Mapping[str, Subject],
    parts: Mapping[str, Ready],
) -> tuple[CheckResult, ...]:
    chain = recipe.served_precision
    # As `mmtrt run` calls them, so that either finds the other's check.
    onnx = {part: open_subject(str(ready.made.onnx)) for part, ready in parts.items()}
    subjects = [chain_subject(exported.wiring, f"{recipe.name} {chain} (onnx)", chain, onnx)]
    engines = {part: ready.engine for part, ready in parts.items() if ready.engine is not None}
    if engines and all(cannot_run(engine) is None for engine in engines.values()):
        built = {part: open_subject(str(engine)) for part, engine in engines.items()}
        subjects.append(chain_subject(exported.wiring, f"{recipe.name} {chain} (engine)", chain, built))
    budgets = {chain: whole_budget(recipe, exported, chain)}
    return tuple(check_chain_subjects(context, recipe, exported, modules, subjects, budgets))  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------- what runs


def _engine(context: Context, recipe: Recipe, made: Prepared) -> Path:
    context.stage(f"{made.precision}: build the engine with TensorRT")
    options = replace(build_options(recipe.target.flavor, recipe.target.name), flavor="tensorrt")
    calibration = made.summary.get("calibration")
    folder, _ = engine_stage(context, made.onnx, made.spec, options, precision=made.precision, calibration=calibration)
    manifests.verify(folder / ENGINE)
    return folder / ENGINE


def _subjects(made: Prepared, engine: Path | None, name: str) -> list[Subject]:
    """Return what runs here, called by the files' names: the stages' folders are of this machine."""
    stem = name if made.precision == "fp32" else f"{name}.{made.precision}"
    found = [replace(open_subject(str(made.onnx)), what=f"{stem}.onnx")]
    if engine is not None and cannot_run(engine) is None:
        found.append(replace(open_subject(str(engine)), what=f"{stem}.engine"))
    return found


def _labels(source: object) -> dict[str, tuple[str, ...]]:
    return {str(output): tuple(names) for output, names in getattr(source, "labels", {}).items()}
