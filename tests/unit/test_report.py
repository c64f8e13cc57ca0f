from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console, RenderableType

from mmtrt.report.bench import bench_view
from mmtrt.report.checks import check_view
from mmtrt.report.terminal import build_view, facts_view, findings_table, run_view
from mmtrt.results import BenchResult, BenchRow, BuildResult, CheckResult, OutputResult, Ran, Verdict

EXACT: Mapping[str, Any] = {
    "sqnr_db": None,
    "cosine": 1.0,
    "max_abs": 0.0,
    "rel_l2": 0.0,
    "argmax_agreement": 1.0,
    "non_finite": 0,
}
CLOSE = {**EXACT, "sqnr_db": 41.26, "cosine": 0.999912, "max_abs": 0.0123, "rel_l2": 0.0087}


def shown(view: RenderableType) -> str:
    console = Console(width=240, highlight=False, color_system=None)
    with console.capture() as capture:
        console.print(view)
    return capture.get()


def line(text: str, start: str) -> list[str]:
    """The words of the line that starts so."""
    return next(row.split() for row in text.splitlines() if row.strip().startswith(start))


def check(what: str = "vqa.fp16.onnx", verdict: Verdict = "pass", **outputs: Mapping[str, Any]) -> CheckResult:
    return CheckResult(
        verdict=verdict,
        candidate=Ran(what=what, runs="onnxruntime 1.30.0 CPU", precision="fp16"),
        reference=Ran(what="zoo:vqa", runs="PyTorch 2.13.0+cpu eager CPU"),
        samples=64,
        outputs={
            name: OutputResult(metrics=metrics, task={"accuracy": 0.91}, reference_task={"accuracy": 0.92})
            for name, metrics in (outputs or {"answer": CLOSE}).items()
        },
    )


def not_run(what: str, note: str) -> CheckResult:
    return CheckResult(
        verdict="not run",
        candidate=Ran(what=what, runs="", note=note),
        reference=Ran(what="", runs=""),
        samples=0,
        outputs={},
    )


def row(file: str, p50: float = 1.234) -> BenchRow:
    return BenchRow(
        file=file,
        runs="onnxruntime 1.30.0 CPU",
        clock="host",
        p50_ms=p50,
        p90_ms=2.0,
        p99_ms=3.0,
        mean_ms=1.5,
        n=100,
        cuda_graph=False,
        transfers=True,
        shapes={"ids": (1, 8)},
    )


def bench(*rows: BenchRow, ratio: Mapping[str, Any] | None = None) -> BenchResult:
    return BenchResult(results=rows, machine={"cpu": "A Chip", "cores": 4}, ratio=ratio)


def build(precision: str = "fp16", **changes: Any) -> BuildResult:
    made = BuildResult(
        precision=precision,
        flavor="tensorrt-rtx",
        flavor_version="1.7.1",
        artifacts={"onnx": f"vqa.{precision}.onnx", "engine": f"out/vqa.{precision}.engine", "manifest": "m"},
        engine_bytes=2_500_000,
        onnx_bytes=3_100_000,
        build_s=4.25,
        int8=None,
        calibration=None,
    )
    return replace(made, **changes)


INT8 = {"nodes": 30, "of": 31, "mac_share": 0.973}
CALIBRATION = {
    "samples": 256,
    "source": "vqa.calib",
    "method": "mse",
    "read_s": 0.5,
    "wall_s": 3.14,
    "inference_s": 1.5,
    "peak_rss_mib": 812.4,
}


# ----------------------------------------------------------------------------------------------------- a check


def test_a_check_has_a_row_per_output() -> None:
    text = shown(check_view(check(answer=CLOSE, match=EXACT)))
    assert "vqa.fp16.onnx against zoo:vqa, 64 samples" in text
    row_of = line(text, "answer")
    assert row_of[1:6] == ["41.3", "0.999912", "0.0123", "100.00", "0"]
    assert row_of[6:] == ["accuracy", "91.00", "(92.00)", "pass"]
    assert line(text, "match")[1] == "exact"
    assert "onnxruntime 1.30.0 CPU against PyTorch 2.13.0+cpu eager CPU" in text
    assert "stored" not in text
    assert "the stored one" in shown(check_view(replace(check(), cached=True)))


def test_a_row_tells_what_the_head_is_and_how_sure_a_share_is() -> None:
    sure = OutputResult(
        metrics={**CLOSE, "explained_variance": 0.99871, "probability_distance": 0.00214, "rank_correlation": 0.5},
        task={"accuracy": 0.91},
        reference_task={"accuracy": 0.92},
        intervals={"argmax_agreement": (0.985, 1.0), "accuracy_drop": (-0.002, 0.0185)},
        kind="classes",
    )
    text = shown(check_view(replace(check(), outputs={"answer": sure})))
    assert "99.87" in line(text, "answer")
    assert "100.00 [98.5, 100.0]" in text
    assert "classes: distance 0.00214, rank 0.5" in text
    assert "accuracy 91.00 (92.00), drop [-0.20, 1.85]" in text


def test_what_could_not_be_told_is_said_as_that() -> None:
    why = "argmax_agreement 1 is 0.566 to 1.000 at 95%, and 0.99 lies between: 5 samples can't tell; about 381 would"
    open_ = OutputResult(
        metrics=CLOSE, verdict="inconclusive", why=(why,), note="float16 where the reference has float32"
    )
    result = replace(check(verdict="inconclusive"), outputs={"answer": open_})
    text = shown(check_view(result))
    assert line(text, "answer")[-1] == "inconclusive"
    assert f"output 'answer': {why}" in text
    assert "output 'answer' is float16 where the reference has float32" in text
    assert "inconclusive" in line(shown(run_view([build()], [result], bench(row("zoo:vqa")), None)), "FP16")


def test_an_output_that_was_not_measured_has_no_numbers() -> None:
    unlike = OutputResult(
        metrics=dict.fromkeys(EXACT), reference_task={"f1": 0.5}, verdict="fail", why=("its shape is (2, 3)",)
    )
    text = shown(check_view(replace(check(verdict="fail"), outputs={"answer": unlike})))
    assert line(text, "answer") == ["answer", "none", "FAIL"]
    assert "output 'answer': its shape is (2, 3)" in text
    runs = shown(
        run_view([build()], [check(), replace(check(), outputs={"answer": unlike})], bench(row("zoo:vqa")), None)
    )
    assert "FP16" in runs


@pytest.mark.parametrize("changes", [{"max_abs": 1.0}, {"non_finite": 3}, {"max_abs": None}])
def test_what_has_no_sqnr_is_not_called_exact(changes: dict[str, Any]) -> None:
    metrics = {**EXACT, "cosine": None, "rel_l2": None, "argmax_agreement": None, **changes}
    text = shown(check_view(check(answer=metrics)))
    assert line(text, "answer")[1] == "none"
    assert "exact" not in text
    runs = shown(run_view([build()], [check(answer=metrics, match=CLOSE)], bench(row("zoo:vqa")), None))
    assert "none" in line(runs, "FP16"), "the worst is shown, not the one that has a number"


def test_a_task_metric_without_a_number_is_left_blank() -> None:
    outputs = {"answer": OutputResult(metrics=CLOSE, task={"f1": None}, reference_task={"f1": None})}  # type: ignore[dict-item]
    result = replace(check(), outputs=outputs)
    assert "f1  ()" in shown(check_view(result))
    assert "FP16" in shown(run_view([build()], [result], bench(row("zoo:vqa")), None))


def test_failures_name_file_output_and_metric() -> None:
    failed = OutputResult(metrics=CLOSE, verdict="fail", why=("sqnr_db 41.26 is below 60",))
    text = shown(check_view(replace(check(verdict="fail"), outputs={"answer": failed})))
    assert "vqa.fp16.onnx: output 'answer': sqnr_db 41.26 is below 60" in text
    assert "FAIL" in text


def test_names_with_brackets_are_shown_as_they_are() -> None:
    text = shown(check_view(check("a[int8].onnx", **{"logits[bold]": CLOSE, "x[/red]": EXACT})))
    for name in ("a[int8].onnx against", "logits[bold]", "x[/red]"):
        assert name in text
    assert "a[int8].onnx" in shown(bench_view(bench(row("a[int8].onnx"))))
    head = check("vqa.fp16.onnx", **{"x[/red]": CLOSE})
    assert "x[/red]" in shown(run_view([build()], [head], bench(row("zoo:vqa")), None))
    assert "[/red]" in shown(facts_view({"file": "[/red]"}))
    assert "[/red]" in shown(findings_table([("ok", "[/red]", "", "")]))


# ----------------------------------------------------------------------------------------------------- a build


def test_a_build_says_what_it_made_and_that_it_did_not_run() -> None:
    text = shown(build_view(build()))
    assert "out/vqa.fp16.engine  (2.50 MB, built in 4.2 s, not run)" in text
    assert "tensorrt-rtx 1.7.1" in text
    assert "vqa.fp16.onnx  (3.10 MB)" in text
    assert "INT8" not in text
    assert "cached" not in text


def test_an_int8_build_says_what_was_calibrated_and_how() -> None:
    layers = {"kernels": 40, "moves": 5, "gemm": {"int8": 20, "fp16": 1}, "conv": {}}
    text = shown(build_view(build("int8", int8=INT8, calibration=CALIBRATION, layers=layers, cached=True)))
    assert "30 of 31 nodes, 97.3 % of the multiply-accumulates" in text
    assert "256 samples of vqa.calib, mse, 3.14 s, of which 0.50 s waiting for samples (plain" in text
    assert "40, of which 5 only move data; gemm: 20 int8, 1 fp16; conv: none" in text
    assert "nothing had changed" in text
    bare = {key: CALIBRATION[key] for key in ("samples", "source", "method")}
    last = line(shown(build_view(build("int8", calibration=bare))), "calibration")
    assert last == ["calibration", "256", "samples", "of", "vqa.calib,", "mse"]


# ------------------------------------------------------------------------------------------------------- a run


def test_a_run_has_pytorch_first_and_a_row_per_precision() -> None:
    builds = [build(), build("int8", int8=INT8, calibration=CALIBRATION)]
    checks = [
        check(answer=CLOSE, match=EXACT),
        check("vqa.int8.onnx", answer={**CLOSE, "sqnr_db": 22.2}, match=CLOSE),
        not_run("out/vqa.fp16.engine", "no GPU on this machine: vqa.fp16.engine was built, not run"),
        not_run("out/vqa.int8.engine", ""),
    ]
    measured = bench(row("zoo:vqa", 9.0), row("vqa.fp16.onnx", 5.0), row("vqa.int8.onnx", 3.0))
    text = shown(run_view(builds, checks, measured, None))
    assert line(text, "PyTorch") == ["PyTorch", "92.00", "92.00", "9.00", "PyTorch", "2.13.0", "CPU"]
    assert line(text, "FP16")[1:7] == ["3.10", "2.50", "91.00", "91.00", "41.3", "0.999912"]
    assert {"97.3", "22.2", "3.14", "3.00", "pass"} <= set(line(text, "INT8 "))
    assert "vqa.fp16.engine: tensorrt-rtx 1.7.1, built, not run (no GPU on this machine)" in text
    assert line(text, "vqa.int8.engine")[-3:] == ["built,", "not", "run"]


def test_an_engine_that_ran_says_where_and_how_fast() -> None:
    ran = replace(check("out/vqa.fp16.engine"), candidate=Ran(what="out/vqa.fp16.engine", runs="TensorRT 10.3 on Orin"))
    engines = bench(row("out/vqa.fp16.engine", 0.5))
    text = shown(run_view([build()], [check(), ran], bench(row("zoo:vqa")), engines))
    assert "vqa.fp16.engine: tensorrt-rtx 1.7.1, pass on TensorRT 10.3 on Orin, p50 0.500 ms" in text
    without = shown(run_view([build()], [check(), ran], bench(row("zoo:vqa")), None))
    assert "on Orin" in without
    assert "p50 0.5" not in without


def test_a_run_of_which_nothing_ran_has_no_numbers() -> None:
    text = shown(run_view([build()], [], bench(row("zoo:vqa")), None))
    assert "PyTorch" not in text
    assert line(text, "FP16") == ["FP16", "3.10", "2.50", "4.2"]


def test_a_run_whose_outputs_have_no_cosine() -> None:
    odd = check(answer={**CLOSE, "cosine": None})
    assert "41.3" in line(shown(run_view([build()], [odd], bench(row("zoo:vqa")), None)), "FP16")


def test_findings_say_what_to_do() -> None:
    rows = [("ok", "GPU", "H100", ""), ("missing", "TensorRT", "", "pip install"), ("warn", "x", "", ""), ("odd",) * 4]
    text = shown(findings_table(rows))
    assert line(text, "missing") == ["missing", "TensorRT", "pip", "install"]
    assert "warning" in text
    assert "what to do" in text
