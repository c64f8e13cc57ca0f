"""The commands. Each parses, calls and prints; heavy modules are imported where a command needs them."""

# ruff: noqa: FBT002 -- Typer makes flags of boolean parameters

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from mmtrt.cli.benching import bench
from mmtrt.cli.bundling import bundle
from mmtrt.cli.checking import check, record
from mmtrt.cli.deploying import deploy
from mmtrt.cli.options import (
    CalibOption,
    CheckpointOption,
    JsonOption,
    ModelArgument,
    NoCacheOption,
    OutOption,
    QuietOption,
    TextOption,
)
from mmtrt.cli.serving import triton
from mmtrt.cli.show import Show
from mmtrt.errors import EXIT_BUDGET, UsageError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands to the app, in the order in which help shows them."""
    for command in (export, build, check, record, sensitivity, bench, run, inspect, doctor, bundle, deploy, triton):
        app.command()(command)


def export(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="zoo:NAME, hf:DIR_OR_ID or package.module:factory.")],
    checkpoint: CheckpointOption = None,
    output: OutOption = None,
    opset: Annotated[int, typer.Option(min=17, max=22, help="ONNX opset.")] = 18,
    json: JsonOption = False,
    quiet: QuietOption = False,
    no_cache: NoCacheOption = False,
) -> None:
    """Export a PyTorch module to ONNX, verified against PyTorch at three shapes."""
    show = Show(json=json, quiet=quiet)
    from mmtrt.export.exporter import ExportOptions
    from mmtrt.export.parts import PipelineSource, open_source
    from mmtrt.pipeline.exporting import export_stage, export_view, publish_export
    from mmtrt.pipeline.parts_export import export_parts, parts_view, publish_parts
    from mmtrt.report.terminal import facts_view

    loaded = open_source(source, checkpoint)
    if isinstance(loaded, PipelineSource):
        parts = export_parts(show.context(no_cache=no_cache), loaded, opset=opset)
        whole = publish_parts(parts, output or Path(), loaded.name)
        show.result(whole.to_json(), facts_view(parts_view(whole)))
        return
    made = export_stage(show.context(no_cache=no_cache), loaded, ExportOptions(opset=opset))
    result = publish_export(made, output or Path(), loaded.name)
    show.result(result.to_json(), facts_view(export_view(result)))


def build(
    model: ModelArgument,
    fp32: Annotated[bool, typer.Option("--fp32", help="Build in FP32.")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Convert to FP16 first.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Calibrate and convert to INT8 (and FP16) first.")] = False,
    calib: CalibOption = None,
    samples: Annotated[Optional[int], typer.Option("--samples", min=1, help="How many samples of the set.")] = None,  # noqa: UP045
    method: Annotated[str, typer.Option(help="INT8 thresholds: auto, entropy, max, mse or percentile.")] = "auto",
    coverage: Annotated[
        str,
        typer.Option(
            metavar="auto|engine|wide|full|all", help="What is INT8: by the engine's kernels, or all that may."
        ),
    ] = "auto",
    ranges: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE.npz", help="Ranges of earlier sets: this one is added to them."),
    ] = None,
    refine: Annotated[
        list[str] | None,
        typer.Option(metavar="balance|compensate|round|bias|none", help="May be repeated; all but compensate if none."),
    ] = None,
    keep: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Node or module to keep out of INT8.")] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(metavar="[OUTPUT:]METRIC=VALUE", help="As much INT8 as this allows; may be repeated."),
    ] = None,
    flavor: Annotated[str, typer.Option(metavar="auto|tensorrt|tensorrt-rtx", help="Which TensorRT builds.")] = "auto",
    target: Annotated[TextOption, typer.Option(metavar="T", help="A name in engines/targets, or a path.")] = None,
    min_shapes: Annotated[str, typer.Option(metavar="SHAPES", help="ids:1x4,image:1x3x64x64")] = "",
    opt_shapes: Annotated[str, typer.Option(metavar="SHAPES", help="The usual shapes.")] = "",
    max_shapes: Annotated[str, typer.Option(metavar="SHAPES", help="The largest shapes.")] = "",
    output: OutOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    no_cache: NoCacheOption = False,
) -> None:
    """Build a TensorRT engine from an ONNX file, in FP32, FP16 or INT8."""
    show = Show(json=json, quiet=quiet)
    from mmtrt.parity.budget import parse_budget
    from mmtrt.pipeline.building import BuildRequest, build_stage
    from mmtrt.pipeline.targets import build_options, target_gpu
    from mmtrt.precision.options import REFINED
    from mmtrt.report.terminal import build_view
    from mmtrt.tensors import parse_shapes

    if budget and not int8:
        raise UsageError("--budget searches how much can be INT8", fix="Add --int8; `mmtrt check` judges any file.")
    if ranges and (budget or not (int8 or fp16)):
        raise UsageError("--ranges belongs to a calibration", fix="Use it with --int8 or --fp16, without --budget.")
    request = BuildRequest(
        model=model,
        ranges_file=ranges,
        folder=output or model.parent,
        precision=_one_of({"fp32": fp32, "fp16": fp16, "int8": int8}),
        budget=parse_budget(budget or []),
        search=bool(budget),
        samples=calib,
        count=samples,
        method=method,
        coverage=coverage,
        refine=tuple(name for name in refine or REFINED if name != "none"),
        keep=tuple(keep or ()),
        shapes=tuple(parse_shapes(text) for text in (min_shapes, opt_shapes, max_shapes)),
        options=build_options(flavor, target),
        gpu=target_gpu(target),
    )
    result = build_stage(show.context(no_cache=no_cache), request)
    show.result(result.to_json(), build_view(result))
    if result.search and not result.search["met"]:
        raise typer.Exit(EXIT_BUDGET)


def sensitivity(
    model: ModelArgument,
    calib: CalibOption = None,
    samples: Annotated[Optional[int], typer.Option("--samples", min=1, help="How many samples of the set.")] = None,  # noqa: UP045
    method: Annotated[str, typer.Option(help="INT8 thresholds: auto, entropy, max, mse or percentile.")] = "auto",
    coverage: Annotated[
        str,
        typer.Option(metavar="wide|full|all", help="Which layers; full: attention's products and the last ones too."),
    ] = "wide",
    plot: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE.png", help="Draw it too; .svg and .pdf are fine as well."),
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """What each layer and each branch of a model loses when it alone is INT8."""
    show = Show(json=json, quiet=quiet)
    from mmtrt.pipeline.building import find_calibration
    from mmtrt.pipeline.searching import sensitivity_stage
    from mmtrt.precision.options import PrecisionOptions
    from mmtrt.report.picture import check_picture, sensitivity_picture
    from mmtrt.report.terminal import sensitivity_view

    if plot is not None:
        check_picture(plot)
    options = PrecisionOptions(precision="int8", method=method, coverage=coverage)
    found = sensitivity_stage(show.context(), model, options, calib or find_calibration(model), samples)
    if plot is not None:
        sensitivity_picture(found.to_json(), plot)
    show.result(found.to_json(), sensitivity_view(found.to_json()))


def _one_of(flags: dict[str, bool]) -> str | None:
    chosen = [name for name, given in flags.items() if given]
    if len(chosen) > 1:
        raise UsageError(f"--{' and --'.join(chosen)} exclude each other", fix="Build each with a call of its own.")
    return chosen[0] if chosen else None


def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="One deployment: see engines/recipes.")],
    output: OutOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    no_cache: NoCacheOption = False,
) -> None:
    """Export, convert, build, check and measure what a recipe says; unchanged stages are not run again."""
    show = Show(json=json, quiet=quiet)
    from mmtrt.recipe import load_recipe

    loaded = load_recipe(recipe)
    from mmtrt.pipeline.recipe_stages import out_folder
    from mmtrt.pipeline.run import run_recipe

    folder = output or out_folder(loaded)
    result = run_recipe(show.context(no_cache=no_cache), loaded, folder)
    show.result(result.to_json(), result.view())
    show.note(
        f"files and report.json are in {folder}" + (": nothing had changed, nothing was done" if result.cached else "")
    )
    if not result.within_budget:
        raise typer.Exit(EXIT_BUDGET)


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An ONNX, an engine, a bundle, or a set of samples.")],
    other: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(metavar="ENGINE", help="A second engine: where is it not faster than the first, and why."),
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show what is in a model, an engine, a bundle or a set; of two engines where the second may be slower."""
    show = Show(json=json, quiet=quiet)
    if other is not None:
        from mmtrt.pipeline.bench_builds import compare_engines
        from mmtrt.report.slower import slower_view

        told = compare_engines(file, other).to_json()
        show.result({"schema": "mmtrt.inspect/1", "kind": "builds", **told}, slower_view(told))
        return
    from rich.console import Group

    from mmtrt.pipeline.bundle_place import is_bundle
    from mmtrt.report.terminal import facts_view, layers_view

    if file.suffix == ".mmtrt" or is_bundle(file):
        # On a board too, which has no extra.
        from mmtrt.pipeline.bundle_facts import bundle_facts_view, inspect_bundle

        told = inspect_bundle(file)
        show.result(told, facts_view({} if json else bundle_facts_view(told)))
        return
    from mmtrt.pipeline.inspecting import inspect_file, inspect_view

    found = inspect_file(file)
    view = facts_view(inspect_view(found))
    show.result(found, Group(view, layers_view(found["layers"])) if found.get("layers") else view)


def doctor(
    target: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="NAME", help="Say what this machine lacks for a target: engines/targets/NAME.toml."),
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Say what this machine can build and run, and what to install."""
    show = Show(json=json, quiet=quiet)
    from mmtrt.engine.doctor import diagnose
    from mmtrt.engine.targets import load_target
    from mmtrt.report.terminal import findings_table

    found = diagnose(load_target(target) if target else None)
    rows = [(f.state, f.name, f.detail, f.fix) for f in found]
    show.result({"schema": "mmtrt.doctor/1", "findings": [f.to_json() for f in found]}, findings_table(rows))
