"""`mmtrt bundle RECIPE.toml`: the recipe's stages, and one bundle of what they made."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import TypeAdapter, ValidationError

from mmtrt.artifacts import machine_errors
from mmtrt.bundle.archive import write_bundle
from mmtrt.bundle.manifest import Manifest, Plain, parse_manifest
from mmtrt.engine.flavours import Flavour, choose, gpu
from mmtrt.engine.targets import Target, load_target
from mmtrt.errors import InputError, MachineError, RecipeError
from mmtrt.export.parts import PipelineSource, open_source
from mmtrt.export.sources import Source
from mmtrt.pipeline.building import Prepared, prepare_stage
from mmtrt.pipeline.bundle_files import BuiltEngine, Packing, packed
from mmtrt.pipeline.bundle_place import check_place
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.engine_stage import ENGINE, engine_stage
from mmtrt.pipeline.golden_stage import golden_stage
from mmtrt.pipeline.recipe_stages import build_request, check_no_parts, check_subjects, export_recipe, held, out_folder
from mmtrt.pipeline.sides import Subject, cannot_run, open_subject
from mmtrt.pipeline.sources import module_subject
from mmtrt.recipe import Recipe
from mmtrt.results import BundleResult, CheckResult, TargetState

__all__ = ["Key", "bundle_recipe", "bundle_view"]

_NONE = "no bundle was made"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What signs a manifest's bytes, and what it is called."""

    name: str
    sign: Callable[[bytes], bytes]


def bundle_recipe(context: Context, recipe: Recipe, out: str, key: Key | None = None) -> BundleResult:
    """Export, convert, build and check what a recipe says, and write a bundle of it to `out`, whole or not at all.

    A path that ends in a slash, or a directory that is there, becomes a directory, else it is one file. RecipeError
    for a model in several parts, or a recipe without a target; MeasurementError where parity is out of budget:
    nothing is written then.
    """
    start = time.perf_counter()
    place = check_place(out)
    if key is not None:
        # What is wrong with the key is told before the minutes that the stages take.
        key.sign(b"{}")
    targets = _targets(recipe)
    source = open_source(recipe.model.source, recipe.model.checkpoint)
    if isinstance(source, PipelineSource):
        raise RecipeError(
            f"{recipe.model.source} is a model in several parts ({', '.join(source.parts)}), and a bundle holds one",
            fix="`mmtrt run` builds and checks it; its files can be carried as they are.",
        )
    check_no_parts(recipe)
    made, states, cached = _stages(context, recipe, source, targets)
    context.stage(f"pack {recipe.name} {recipe.bundle.version}")
    with machine_errors("a temporary folder"), TemporaryDirectory(prefix="mmtrt-bundle-") as scratch:
        files, manifest = packed(made, Path(scratch))
        content = _readable(manifest)
        signature = key.sign(content) if key else None
        digest = write_bundle(place.path, files, manifest, signature, tar=place.tar)
    return BundleResult(
        path=str(place.path),
        form="file" if place.tar else "directory",
        name=manifest.name,
        version=manifest.version,
        digest=digest,
        bytes=place.size(),
        files={name: entry.bytes for name, entry in manifest.files.items()},
        targets=states,
        parity={check.candidate.precision: check.verdict for check in made.checks},
        golden=sum(name.startswith(f"{manifest.golden}/") and name.endswith(".npz") for name in files),
        signed_by=key.name if key else "",
        cached=cached,
        wall_s=round(time.perf_counter() - start, 3),
    )


def _readable(manifest: Manifest) -> bytes:
    """Return a manifest's bytes; RecipeError where whoever opens the bundle would refuse them."""
    try:
        content = manifest.to_bytes()
        parse_manifest(content, manifest.name)
    except InputError as error:
        raise RecipeError(
            f"a bundle can't be made, since nobody could open it: {error.message}",
            fix="Texts may hold no control characters; with fewer targets and kinds of stress it is shorter.",
        ) from error
    return content


def _stages(
    context: Context, recipe: Recipe, source: Source, targets: Mapping[str, tuple[str, Target]]
) -> tuple[Packing, dict[str, TargetState], bool]:
    """Run the stages; return what is to be packed, each target's state, and whether all of it was there already."""
    exported = export_recipe(context, recipe, source)
    golden, picked = golden_stage(context, recipe, exported, source)
    folder = out_folder(recipe)
    models: dict[str, Prepared] = {
        precision: prepare_stage(context, build_request(recipe, exported, folder, precision))
        for precision in recipe.precision.build
    }
    reference = module_subject(source)
    named = [_named(open_subject(str(made.onnx)), folder / _file(recipe, p)) for p, made in models.items()]
    checks = check_subjects(context, recipe, reference, exported, named)
    held(checks, _NONE)
    engines, states, old = _engines(context, recipe, targets, models)
    running = [engine for engine in engines if cannot_run(engine.path) is None]
    ran: list[CheckResult] = []
    if running:
        subjects = [_named(open_subject(str(engine.path)), Path(engine.name)) for engine in running]
        ran = check_subjects(context, recipe, reference, exported, subjects)
        held(ran, _NONE)
        for engine, check in zip(running, ran, strict=True):
            states[engine.target] = replace(states[engine.target], parity=check.verdict)
    packing = Packing(
        recipe=recipe,
        exported=exported,
        source=source,
        models=models,
        targets=targets,
        engines=engines,
        checks=checks,
        golden=golden,
    )
    kept = [exported.cached, picked, old, *(made.cached for made in models.values())]
    return packing, states, all([*kept, *(check.cached for check in (*checks, *ran))])


def _targets(recipe: Recipe) -> dict[str, tuple[str, Target]]:
    """Return the targets by their own names, with what the recipe calls each; RecipeError for what no bundle takes."""
    _check_named("the recipe", recipe.name)
    named = recipe.bundle.targets or ((recipe.target.name,) if recipe.target.name else ())
    if not named:
        raise RecipeError(
            f"the recipe {recipe.name} names no target: a bundle is for machines that are known",
            fix='Add [bundle] with targets = ["any-rtx"], or others of engines/targets.',
        )
    found: dict[str, tuple[str, Target]] = {}
    for reference in named:
        target = load_target(reference)
        if target.name in found:
            raise RecipeError(f"two targets of the bundle are called {target.name!r}", fix="Give one another name.")
        _check_named("the target", target.name)
        if unknown := sorted(set(recipe.bundle.plugins) - set(target.plugins)):
            raise RecipeError(
                f"the bundle needs plugins that its target {target.name} does not allow: {', '.join(unknown)}",
                fix="A plugin is native code: name it under plugins in the target's file too.",
            )
        found[target.name] = (reference, target)
    return found


def _check_named(what: str, name: str) -> None:
    try:
        TypeAdapter(Plain).validate_python(name)
    except ValidationError:
        raise RecipeError(
            f"{what} is called {name!r}, which is no name in a bundle",
            fix="Use at most 64 letters, digits, '.', '-', '_' and '+'.",
        ) from None


def _engines(
    context: Context, recipe: Recipe, targets: Mapping[str, tuple[str, Target]], models: Mapping[str, Prepared]
) -> tuple[list[BuiltEngine], dict[str, TargetState], bool]:
    """Build for each target that can be built for here; return the engines, each target's state, if all were there."""
    engines: list[BuiltEngine] = []
    states: dict[str, TargetState] = {}
    old = True
    for name, (reference, target) in targets.items():
        precision = recipe.bundled_precision(reference)
        made = models[precision]
        later = TargetState(precision=precision, engine="built on the board", flavor=target.flavor)
        flavour = _flavour_for(recipe, target)
        if isinstance(flavour, str):
            states[name] = replace(later, why=flavour)
            context.note(f"{name}: its engine is built on the board: {flavour}")
            continue
        context.stage(f"{name}: build the {precision} engine with {flavour.name} {flavour.version}")
        folder, cached = engine_stage(
            context,
            made.onnx,
            made.spec,
            target.options(),
            precision=precision,
            calibration=made.summary.get("calibration"),
        )
        old &= cached
        engines.append(BuiltEngine(target=name, precision=precision, path=folder / ENGINE))
        states[name] = replace(
            later,
            engine="carried",
            flavor=flavour.name,
            flavor_version=flavour.version,
            engine_bytes=(folder / ENGINE).stat().st_size,
        )
    return engines, states, old


def _flavour_for(recipe: Recipe, target: Target) -> Flavour | str:
    """Return what builds a target's engine here, or why none is built here."""
    if not recipe.bundle.engines:
        return "the recipe says engines = false"
    try:
        flavour = choose(target.flavor)
    except MachineError as error:
        return error.message
    here = gpu()
    wanted = target.gpu_capability
    if flavour.needs_gpu_to_build and here is not None and wanted not in {None, here.compute_capability}:
        return f"its GPU has compute capability {wanted}, and {here.name} has {here.compute_capability}"
    return flavour


def _named(subject: Subject, name: Path) -> Subject:
    # The stages' folders are of this machine; as `mmtrt run` names them, its check is this one.
    return replace(subject, what=str(name))


def _file(recipe: Recipe, precision: str) -> str:
    return f"{recipe.name}.onnx" if precision == "fp32" else f"{recipe.name}.{precision}.onnx"


def bundle_view(result: BundleResult) -> dict[str, str]:
    """Return names and values for people."""
    rows = {
        "bundle": f"{result.path}  ({result.bytes / 1e6:.2f} MB, {len(result.files)} files)",
        "version": f"{result.name} {result.version}",
        "digest": result.digest,
        "signed": result.signed_by or "no",
        "parity": ", ".join(f"{precision} {verdict}" for precision, verdict in result.parity.items()),
        "golden": f"{result.golden} samples",
    }
    for name, state in result.targets.items():
        ran = f"parity {state.parity}" if state.parity else "built, not run"
        carried = f"{state.flavor} {state.flavor_version}, {state.engine_bytes / 1e6:.2f} MB, {ran}"
        told = carried if state.engine == "carried" else f"built on the board: {state.why}"
        rows[f"target {name}"] = f"{state.precision}; {told}"
    if result.cached:
        rows["cached"] = "nothing had changed, it was packed again"
    return rows
