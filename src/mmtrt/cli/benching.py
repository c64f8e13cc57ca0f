"""`mmtrt bench`: latency and throughput, alone, side by side, over sizes, in a scenario, against an earlier run."""

# ruff: noqa: FBT002 -- Typer makes flags of boolean parameters

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from mmtrt.cli.documents import Documents
from mmtrt.cli.options import CheckpointOption, JsonOption, QuietOption, TextOption
from mmtrt.cli.show import Show
from mmtrt.errors import EXIT_BUDGET

__all__ = ["bench"]

FileOption = Optional[Path]  # noqa: UP045
ListOption = Optional[list[str]]  # noqa: UP045


def bench(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="ONNX files, engines or sources.")],
    duration: Annotated[
        float, typer.Option(min=0.01, metavar="S", help="Seconds of measuring for each file and shape.")
    ] = 3.0,
    warm_up: Annotated[float, typer.Option(min=0, metavar="MS", help="Milliseconds to warm up.")] = 200.0,
    shapes: Annotated[str, typer.Option(metavar="SHAPES", help="ids:1x8,image:1x3x64x64; else the usual ones.")] = "",
    sweep: Annotated[
        ListOption, typer.Option(metavar="NAME=SIZES", help="batch=1,2,4,8 or batch=1..16x2; several multiply.")
    ] = None,
    scenario: Annotated[
        str, typer.Option(metavar="NAME", help="latency, or MLPerf's single-stream, multi-stream or offline.")
    ] = "latency",
    clock: Annotated[str, typer.Option(metavar="device|host", help="Whose time: the GPU's own, or the caller's.")] = (
        "device"
    ),
    cuda_graph: Annotated[bool, typer.Option("--cuda-graph/--no-cuda-graph", help="Replay a CUDA graph.")] = True,
    transfers: Annotated[
        bool, typer.Option("--transfers/--no-transfers", help="Copies between host and GPU in the time.")
    ] = True,
    layers: Annotated[bool, typer.Option("--layers", help="The time of each layer and each branch too.")] = False,
    against: Annotated[
        ListOption, typer.Option(metavar="torch|torch-compile", help="PyTorch beside the files; may be repeated.")
    ] = None,
    against_precision: Annotated[
        TextOption, typer.Option(metavar="fp32|fp16", help="PyTorch's; else FP16 on a GPU, FP32 on a CPU.")
    ] = None,
    source: Annotated[
        TextOption, typer.Option(metavar="SOURCE", help="What PyTorch runs; else what the files were exported from.")
    ] = None,
    checkpoint: CheckpointOption = None,
    baseline: Annotated[FileOption, typer.Option(metavar="JSON", help="An earlier run: slower fails.")] = None,
    max_regression: Annotated[
        TextOption, typer.Option(metavar="PERCENT", help="How much slower than the baseline may be: 3% if not told.")
    ] = None,
    junit: Annotated[FileOption, typer.Option(metavar="FILE", help="JUnit XML, a case per row.")] = None,
    summary: Annotated[
        FileOption, typer.Option(metavar="FILE", help="Markdown; with a baseline else to $GITHUB_STEP_SUMMARY, if set.")
    ] = None,
    csv: Annotated[FileOption, typer.Option(metavar="FILE", help="A line per row.")] = None,
    samples_out: Annotated[FileOption, typer.Option(metavar="FILE", help="Each run's time, as CSV.")] = None,
    plot: Annotated[
        FileOption,
        typer.Option(
            metavar="FILE.png", help="Draw the distributions (.svg and .pdf too); with --layers FILE.layers.png."
        ),
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Latency and throughput; several files are measured in turn and compared with the first."""
    show = Show(json=json, quiet=quiet)
    from mmtrt.bench.measure import Settings
    from mmtrt.bench.scenarios import scenario_of
    from mmtrt.bench.sweeps import parse_sweeps
    from mmtrt.pipeline.bench_against import torch_kinds, torch_precision
    from mmtrt.pipeline.bench_options import duration_of, host_clock_of, limit_of
    from mmtrt.pipeline.benching import BenchRequest, bench_files
    from mmtrt.report.bench import bench_view
    from mmtrt.report.bench_files import BenchFiles
    from mmtrt.tensors import parse_shapes

    documents = Documents(
        candidate=", ".join(files), against=str(baseline or ""), junit=junit, summary=summary, command="bench"
    )
    outputs = BenchFiles(csv=csv, samples=samples_out, plot=plot, layers=layers)
    read = [*files, *(str(one) for one in (baseline, checkpoint) if one)]
    documents.check_names(read, {"--csv": csv, "--samples-out": samples_out, "--plot": plot})
    with documents.of_errors():
        outputs.check(read)
        request = BenchRequest(
            files=tuple(files),
            shapes=parse_shapes(shapes),
            sweeps=parse_sweeps(sweep or []),
            settings=Settings(
                duration_s=duration_of("--duration", duration),
                warm_up_s=duration_of("--warm-up", warm_up) / 1e3,
                cuda_graph=cuda_graph,
                transfers=transfers,
                host_clock=host_clock_of(clock),
                scenario=scenario_of(scenario),
            ),
            against=torch_kinds(against or []),
            against_precision=torch_precision(against_precision),
            source=source,
            checkpoint=checkpoint,
            baseline=baseline,
            limit=limit_of(max_regression, baseline),
            layers=layers,
        )
        result = bench_files(show.context(), request)
        outputs.write(result)
    documents.measured(result)
    show.result(result.to_json(), bench_view(result))
    if result.gate is not None and result.gate["verdict"] != "pass":
        raise typer.Exit(EXIT_BUDGET)
