"""`mmtrt check`, whose verdict is the exit code, and `mmtrt record`, which keeps a reference for it."""

# ruff: noqa: FBT002 -- Typer makes flags of boolean parameters

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from mmtrt.cli.documents import Documents
from mmtrt.cli.options import CheckpointOption, JsonOption, NoCacheOption, OutOption, QuietOption, TextOption
from mmtrt.cli.show import Show
from mmtrt.errors import EXIT_BUDGET, InputError, MachineError, MeasurementError, UsageError

if TYPE_CHECKING:
    from mmtrt.pipeline.checking import CheckRequest
    from mmtrt.pipeline.context import Context
    from mmtrt.results import CheckResult

__all__ = ["check", "record"]

_SIDE = "An ONNX, an engine, a source, or saved outputs."

FileOption = Optional[Path]  # noqa: UP045
StressOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(metavar="KIND|none", help="Only this kind of hard case; may be repeated."),
]
SkipOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(metavar="KIND", help="Not this kind of hard case; may be repeated."),
]


def check(
    candidate: Annotated[str, typer.Argument(metavar="CANDIDATE", help=_SIDE)],
    against: Annotated[str, typer.Option(metavar="REFERENCE", help=_SIDE)],
    samples: Annotated[TextOption, typer.Option(metavar="SET", help="Else those that lie beside; random.")] = None,
    count: Annotated[Optional[int], typer.Option(min=1, help="How many samples of the set.")] = None,  # noqa: UP045
    budget: Annotated[
        list[str] | None, typer.Option(metavar="[KIND/][OUTPUT:]METRIC=VALUE", help="May be repeated.")
    ] = None,
    head: Annotated[
        list[str] | None, typer.Option(metavar="OUTPUT=KIND", help="What an output is: classes, regression ...")
    ] = None,
    stress: StressOption = None,
    skip_stress: SkipOption = None,
    locate: Annotated[bool, typer.Option("--locate", help="Find the first layer that is wrong by itself.")] = False,
    plot: Annotated[
        FileOption,
        typer.Option(metavar="FILE.png", help="Locate, and draw it; .svg and .pdf too."),
    ] = None,
    reduce: Annotated[
        FileOption,
        typer.Option(metavar="FILE.onnx", help="Locate, and write the smallest ONNX that fails; its arrays beside it."),
    ] = None,
    checkpoint: CheckpointOption = None,
    baseline: Annotated[FileOption, typer.Option(metavar="JSON", help="An earlier check: drift from it fails.")] = None,
    junit: Annotated[FileOption, typer.Option(metavar="FILE", help="JUnit XML, a case per output and metric.")] = None,
    summary: Annotated[
        FileOption, typer.Option(metavar="FILE", help="Markdown; else appended to $GITHUB_STEP_SUMMARY, if set.")
    ] = None,
    time_limit: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(min=0.1, metavar="S", help="Seconds, after which the verdict is inconclusive."),
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    no_cache: NoCacheOption = False,
) -> None:
    """Parity of a candidate with a reference, over samples and hard cases; the verdict is the exit code."""
    show = Show(json=json, quiet=quiet)
    documents = Documents(candidate=candidate, against=against, junit=junit, summary=summary)
    read = [candidate, against, samples, baseline, checkpoint]
    documents.check_names(read, {"--plot": plot, "--reduce": reduce})
    with documents.of_errors():
        from mmtrt.parity.budget import parse_budget, parse_heads
        from mmtrt.parity.stress_budget import chosen_kinds
        from mmtrt.pipeline.checking import CheckRequest
        from mmtrt.pipeline.deadline import check_within

        _check_names(plot, reduce, read)
        request = CheckRequest(
            candidate=candidate,
            against=against,
            samples=samples,
            count=count,
            budget=parse_budget(budget or []),
            checkpoint=checkpoint,
            stress=chosen_kinds(stress or (), skip_stress or ()),
            heads=parse_heads(head or []),
            baseline=baseline,
            reduce=reduce,
        )
        wanted = locate or plot is not None or reduce is not None
        result = check_within(
            show.context(no_cache=no_cache),
            request,
            time_limit,
            lambda partial: _tell(show, documents, partial),
            then=lambda context, told: _located(context, request, told, plot) if wanted else told,
        )
    _tell(show, documents, result)
    if result.verdict != "pass":
        raise typer.Exit(EXIT_BUDGET)


def _check_names(plot: Path | None, reduce: Path | None, read: Sequence[str | Path | None]) -> None:
    """Raise UsageError before any work, where a file that is asked for can't be written: by its name or its place.

    `read` is what the check reads: none of that is written over.
    """
    if plot is not None:
        from mmtrt.report.picture import check_picture

        check_picture(plot)
        _check_place(plot)
    if reduce is None:
        return
    if reduce.suffix != ".onnx":
        raise UsageError(f"--reduce writes an ONNX, and {reduce.name} is none by its name", fix="Name it FILE.onnx.")
    known = {Path(one).resolve() for one in read if one is not None}
    for made in (reduce, reduce.with_suffix(".npz")):
        _check_place(made)
        if made.resolve() in known:
            raise UsageError(f"--reduce would write over {made}, which the check reads", fix="Give another name.")


def _check_place(path: Path) -> None:
    """Raise UsageError where a folder has the name, or what it would lie in is no folder."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder, and a file is to be written", fix="Name a file in it.")
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir():
        raise UsageError(f"{path} can't be written: {above} is no folder", fix="Choose another place.")


def _located(context: Context, request: CheckRequest, result: CheckResult, plot: Path | None) -> CheckResult:
    """Add where the error starts; where that can't be told, say why: the verdict stands all the same.

    MachineError where a verdict that passes would hide that a file was not written.
    """
    from mmtrt.pipeline.locating import locate_files

    try:
        located = locate_files(context, request, result)
        result = replace(result, located=located.to_json())
        if plot is not None:
            from mmtrt.report.growth import growth_picture

            growth_picture(located, plot)
    except (InputError, MeasurementError) as error:
        context.note(f"the first bad layer can't be told: {error}")
    except (MachineError, OSError) as error:
        if result.verdict == "pass":
            raise
        context.note(str(error))
    return result


def _tell(show: Show, documents: Documents, result: CheckResult) -> None:
    from rich.console import Group

    from mmtrt.report.checks import check_view
    from mmtrt.report.growth import growth_view
    from mmtrt.report.outcome import outcome_lines
    from mmtrt.results import Located

    documents.verdict(result)
    located = [growth_view(Located.from_json(result.located))] if result.located is not None else []
    show.result(result.to_json(), Group(check_view(result), *located, *outcome_lines(result)))


def record(
    reference: Annotated[str, typer.Argument(metavar="REFERENCE", help="An ONNX, an engine, or a source.")],
    samples: Annotated[TextOption, typer.Option(metavar="SET", help="Else those that lie beside; random.")] = None,
    count: Annotated[Optional[int], typer.Option(min=1, help="How many samples of the set.")] = None,  # noqa: UP045
    stress: StressOption = None,
    skip_stress: SkipOption = None,
    candidate: Annotated[
        TextOption, typer.Option("--for", metavar="CANDIDATE", help="Hard cases of its ranges and its calibration.")
    ] = None,
    checkpoint: CheckpointOption = None,
    output: OutOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Record a reference's outputs once; `check --against` them needs neither its runtime nor its weights."""
    show = Show(json=json, quiet=quiet)
    from mmtrt.parity.stress_budget import chosen_kinds
    from mmtrt.pipeline.recording import RecordRequest, record_reference
    from mmtrt.report.terminal import facts_view

    request = RecordRequest(
        reference=reference,
        folder=output,
        samples=samples,
        count=count,
        stress=chosen_kinds(stress or (), skip_stress or ()),
        checkpoint=checkpoint,
        candidate=candidate,
    )
    result = record_reference(show.context(), request)
    show.result(result.to_json(), facts_view(result.view()))
