"""`mmtrt bench` on small files, in short runs: what it says, writes and refuses. No time is judged."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import mlp
from refusals import Cli, Said, assert_told
from started import start

from mmtrt.errors import InputError, UsageError
from mmtrt.pipeline import bench_against, torch_sides
from mmtrt.pipeline.bench_against import source_of, torch_contenders
from mmtrt.pipeline.sides import open_subject

QUICK = ("--duration", "0.02", "--warm-up", "0")
ADDED = {
    "p95_ms",
    "cv",
    "drift",
    "samples_per_s",
    "queries_per_s",
    "scenario",
    "precision",
    "peak_rss_mib",
    "warnings",
    "figure_ci95",
}


def document(said: Said) -> dict[str, Any]:
    assert said.code == 0, said.err
    found: dict[str, Any] = json.loads(said.out)
    assert found["schema"] == "mmtrt.bench/1"
    return found


def test_a_sweep_leaves_a_row_per_shape_and_its_files(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    copy = shutil.copy(tiny, tmp_path / "copy.onnx")
    sweep = ("--sweep", "batch=1,8", "--sweep", "text=2..4+2")
    files = ("--csv", "rows.csv", "--samples-out", "runs.csv", "--plot", "picture.png", "--junit", "j.xml")
    found = document(cli("bench", tiny, copy, *QUICK, *sweep, *files, "--summary", "s.md", "--json"))
    rows = found["results"]
    assert [row["sizes"] for row in rows[::2]] == [{"batch": b, "text": t} for b in (1, 8) for t in (2, 4)]
    for row in rows:
        assert row.keys() >= ADDED
        assert row["shapes"]["ids"] == [row["sizes"]["batch"], row["sizes"]["text"]]
        assert row["samples"] == row["sizes"]["batch"]
        assert row["samples_per_s"] == pytest.approx(row["samples"] * row["queries_per_s"])
    assert all((row["ratio"] is None) == (row["file"] == str(tiny)) for row in rows)
    assert found["ratio"] is None
    written = list(csv.DictReader(Path("rows.csv").read_text().splitlines()))
    assert [float(line["p50_ms"]) for line in written] == [row["p50_ms"] for row in rows]
    assert len(Path("runs.csv").read_text().splitlines()) == 1 + sum(row["n"] for row in rows)
    assert Path("picture.png").read_bytes().startswith(b"\x89PNG")
    assert Path("j.xml").read_text().count("<testcase") == 8
    assert Path("s.md").read_text().startswith("### mmtrt bench\n")


@pytest.mark.parametrize(
    ("scenario", "shape", "samples", "figure"),
    [
        ("single-stream", 1, 1, "p90_ms"),
        ("multi-stream", 8, 8, "p99_ms"),
        ("offline", 8, 8, "samples_per_s"),
    ],
)
def test_a_scenario_chooses_the_batch(
    cli: Cli, tiny: Path, scenario: str, shape: int, samples: int, figure: str
) -> None:
    found = document(cli("bench", tiny, *QUICK, "--scenario", scenario, "--json"))
    (row,) = found["results"]
    assert row["shapes"]["ids"][0] == shape
    assert (row["samples"], row["figure"], row["scenario"]) == (samples, figure, scenario)
    assert any("no MLPerf result" in told for told in row["warnings"])


def test_eight_samples_of_a_model_that_takes_one(cli: Cli, tmp_path: Path) -> None:
    model = mlp(np.random.default_rng(0))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "one.onnx")
    (row,) = document(cli("bench", "one.onnx", *QUICK, "--scenario", "multi-stream", "--json"))["results"]
    assert (row["shapes"], row["samples"]) == ({"x": [1, 8]}, 8)
    assert row["samples_per_s"] == pytest.approx(8 * row["queries_per_s"])


# ----------------------------------------------------------------------------------------------------- a baseline


def kept(cli: Cli, path: str, *files: object, change: Callable[[dict[str, Any]], None] | None = None) -> None:
    """Measure, and keep the JSON with a change."""
    found = document(cli("bench", *files, *QUICK, "--json"))
    if change is not None:
        change(found)
    Path(path).write_text(json.dumps(found))


def scale(factor: float) -> Callable[[dict[str, Any]], None]:
    """Make a baseline's medians so much longer, and sure."""

    def change(found: dict[str, Any]) -> None:
        for row in found["results"]:
            row["p50_ms"] *= factor
            row["figure_ci95"] = [row["p50_ms"], row["p50_ms"]]
            row["cv"] = 0.01

    return change


def test_a_run_far_faster_than_its_baseline_passes(cli: Cli, tiny: Path) -> None:
    kept(cli, "base.json", tiny, change=scale(1e6))
    said = cli("bench", tiny, *QUICK, "--baseline", "base.json", "--max-regression", "3%", "--json")
    found = document(said)
    assert (found["gate"]["verdict"], found["gate"]["limit"]) == ("pass", 0.03)


def test_a_run_far_slower_leaves_by_1_with_its_documents(
    cli: Cli, tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept(cli, "base.json", tiny, change=scale(1e-6))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "step.md"))
    said = cli("bench", tiny, *QUICK, "--baseline", "base.json", "--junit", "j.xml", "--csv", "rows.csv")
    assert said.code == 1
    assert "slower" in said.out
    assert "<failure" in Path("j.xml").read_text()
    assert "base.json" in Path("step.md").read_text()
    assert Path("rows.csv").exists()


def test_a_benchmark_without_a_gate_leaves_the_step_alone(
    cli: Cli, tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "step.md"))
    assert cli("bench", tiny, *QUICK).code == 0
    assert cli("bench", "gone.onnx", *QUICK).code == 3
    assert not Path("step.md").exists()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda found: found["machine"].update(cpu="Another Chip"), "Another Chip"),
        (lambda found: found["results"][0].update(precision="int8"), "int8"),
        (lambda found: found["results"][0].update(shapes={"ids": [3, 3]}), "3x3"),
        (lambda found: found["results"].append(found["results"][0]), "twice"),
        (lambda found: found.update(results=[]), "no sound row"),
        (lambda found: found.update(schema="mmtrt.check/1"), "mmtrt.check/1"),
    ],
)
def test_a_baseline_of_something_else_is_told_before_measuring(
    cli: Cli, tiny: Path, change: Callable[[dict[str, Any]], None], word: str
) -> None:
    kept(cli, "base.json", tiny, change=change)
    said = cli("bench", tiny, "--duration", "100", "--baseline", "base.json", "--junit", "j.xml")
    assert_told(said, 3, "base.json", word)
    assert "<error" in Path("j.xml").read_text()


# --------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("TINY --sweep batsch=1,2", ("'batsch'", "batch, text")),
        ("TINY --sweep batch=1,9", ("batch = 9", "1 to 8")),
        ("TINY --sweep batch", ("'batch'", "batch=1,2,4,8")),
        ("TINY --sweep batch=1 --sweep batch=2", ("'batch'", "twice")),
        ("TINY --scenario server", ("'server'", "offline")),
        ("TINY --scenario single-stream --sweep batch=1,2", ("batch", "--sweep")),
        ("TINY --scenario multi-stream --shapes ids:2x4", ("batch", "--shapes")),
        ("TINY --scenario offline --no-transfers", ("offline", "--no-transfers")),
        ("TINY --clock wall", ("'wall'", "device")),
        ("TINY --duration inf", ("--duration",)),
        ("TINY --warm-up nan", ("--warm-up",)),
        ("TINY --warm-up -1", ("--warm-up",)),
        ("TINY TINY", ("twice", "copy")),
        ("tiny_fusion:factory tiny_fusion:factory", ("twice",)),
        ("TINY --max-regression 3%", ("--baseline",)),
        ("TINY --baseline b.json --max-regression 3", ("'3'", "3%")),
        ("TINY --against onnx", ("'onnx'", "torch-compile")),
        ("TINY --against torch --against torch", ("twice",)),
        ("TINY --against torch --against-precision int8", ("'int8'", "fp16")),
        ("TINY --source tiny_fusion:factory", ("--against",)),
        ("TINY --against-precision fp16", ("--against", "torch")),
        ("TINY --checkpoint x.pt", ("checkpoint",)),
        ("TINY --csv .", ("--csv",)),
        ("TINY --csv x --samples-out ./x", ("--samples-out", "--csv")),
        ("TINY --csv TINY", ("--csv", "tiny.onnx")),
        ("TINY --plot x.bmp", (".bmp", ".png")),
        ("TINY --junit x --summary x", ("--junit", "--summary")),
        ("TINY --junit TINY", ("--junit", "tiny.onnx", "read")),
        ("TINY --baseline b.json --summary b.json", ("--summary", "b.json", "read")),
        ("TINY --csv x --junit ./x", ("--junit", "--csv")),
    ],
)
def test_a_wrong_command_line_is_refused(cli: Cli, tiny: Path, line: str, words: tuple[str, ...]) -> None:
    before = tiny.read_bytes()
    said = cli("bench", *line.replace("TINY", str(tiny)).split())
    assert_told(said, 2, *words)
    assert tiny.read_bytes() == before


def test_files_that_take_other_sizes_are_measured_where_both_do(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    model = onnx.load(tiny)
    (entry,) = (prop for prop in model.metadata_props if '"ranges"' in prop.value)
    spec = json.loads(entry.value)
    spec["ranges"]["batch"] = [1, 2, 4]
    entry.value = json.dumps(spec)
    onnx.save(model, tmp_path / "narrow.onnx")
    said = cli("bench", tiny, "narrow.onnx", *QUICK, "--sweep", "batch=4,8")
    assert_told(said, 2, "narrow.onnx", "batch = 8", "1 to 4")
    assert len(document(cli("bench", tiny, "narrow.onnx", *QUICK, "--sweep", "batch=2,4", "--json"))["results"]) == 4


def test_files_of_different_models_are_refused(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3]) for name in ("x", "y")]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", value[:1], value[1:]))
    model.ir_version = 8
    onnx.save(model, tmp_path / "other.onnx")
    assert_told(cli("bench", tiny, "other.onnx", *QUICK), 2, "other.onnx takes x", "ids", "own")


def test_a_largest_batch_that_no_file_tells_is_told(cli: Cli, tmp_path: Path) -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 3]) for name in ("x", "y")]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", value[:1], value[1:]))
    model.ir_version = 8
    onnx.save(model, tmp_path / "free.onnx")
    words = "no file tells the largest N"
    assert words in cli("bench", "free.onnx", *QUICK, "--scenario", "offline").err
    assert words not in cli("bench", "free.onnx", *QUICK, "--scenario", "offline", "--sweep", "N=2").err


def test_ctrl_c_leaves_nothing_half_written(tiny: Path, tmp_path: Path) -> None:
    process = start(tmp_path, "bench", tiny, "--duration", "100", "--csv", "rows.csv", "--json")
    assert process.stderr is not None
    for line in process.stderr:
        if "latency of 1" in line:
            break
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=180)
    assert process.returncode == 130
    assert json.loads(out)["exit_code"] == 130
    assert [path.name for path in tmp_path.iterdir()] in ([], ["cache"])


# ---------------------------------------------------------------------------------------------------- PyTorch


def test_the_files_tell_their_source(tiny: Path, tmp_path: Path) -> None:
    subject = open_subject(str(tiny))
    assert source_of([subject]) == "tiny_fusion:factory"
    other = replace(subject, spec=replace(subject.spec, source="zoo:vqa"))
    with pytest.raises(InputError, match="several"):
        source_of([subject, other])
    onnx.save(mlp(np.random.default_rng(0)), tmp_path / "plain.onnx")
    with pytest.raises(InputError, match="no file tells") as caught:
        source_of([open_subject(str(tmp_path / "plain.onnx"))])
    assert "--source" in (caught.value.fix or "")
    engine = tmp_path / "a.engine"
    Path(f"{engine}.json").write_text(json.dumps({"schema": "mmtrt.engine/1", "model": {"source": "zoo:video"}}))
    built = replace(subject, what=str(engine), spec=replace(subject.spec, source=""))
    assert source_of([built]) == "zoo:video"


def test_pytorch_stands_beside_the_file_it_was_exported_to(cli: Cli, tiny: Path) -> None:
    found = document(cli("bench", tiny, *QUICK, "--against", "torch", "--json"))
    _, second = found["results"]
    assert second["file"] == "tiny_fusion:factory torch"
    assert second["runs"].startswith("PyTorch")
    assert second["precision"] == "fp32"
    assert found["ratio"][second["file"]]["against"] == str(tiny)


def test_pytorch_has_the_precision_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def make(*arguments: object) -> str:
        asked.append(arguments)
        return "a runner"

    monkeypatch.setattr(torch_sides, "torch_contender", make)
    monkeypatch.setattr(bench_against, "gpu", lambda: None)
    first, second = torch_contenders("zoo:vqa", None, ("torch", "torch-compile"), None)
    assert (first.file, second.file) == ("zoo:vqa torch", "zoo:vqa torch-compile")
    monkeypatch.setattr(bench_against, "gpu", lambda: "a GPU")
    (third,) = torch_contenders("zoo:vqa", Path("w.pt"), ("torch",), None)
    (fourth,) = torch_contenders("zoo:vqa", None, ("torch",), "fp32")
    assert [one.precision for one in (first, third, fourth)] == ["fp32", "fp16", "fp32"]
    assert asked[2] == ("zoo:vqa", Path("w.pt"), "torch", "fp16")


def test_what_pytorch_is_no_more_is_a_usage_error() -> None:
    with pytest.raises(UsageError):
        bench_against.torch_kinds(["eager"])
