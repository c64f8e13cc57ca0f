"""Outputs that were saved earlier stand on either side of a check, and are matched with the samples they belong to."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ci_documents import document, golden_rows
from refusals import Cli, assert_told

from mmtrt.parity.stress import KINDS


@pytest.fixture
def lean_polygraphy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Polygraphy's module, kept from importing torch, which takes it seconds."""
    monkeypatch.setitem(sys.modules, "torch", None)
    return pytest.importorskip("polygraphy.json")


def save_outputs(rows: list[dict[str, np.ndarray]], path: Path, *, at_once: int = 1) -> None:
    """What `polygraphy run --save-outputs` writes: iterations of one runner, with the batch axis."""
    from polygraphy.comparator import RunResults

    outputs = [{k.removeprefix("output."): v for k, v in row.items() if k.startswith("output.")} for row in rows]
    groups = [outputs[start : start + at_once] for start in range(0, len(outputs), at_once)]
    results = RunResults()
    results.add([{k: np.stack([r[k] for r in g]) for k in g[0]} for g in groups], runner_name="onnxrt-runner-N0")
    results.save(str(path))


def inputs_of(row: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k: v for k, v in row.items() if not k.startswith(("output.", "label."))}


def worse(rows: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """The same samples, with one output of one of them moved."""
    rows = [dict(row) for row in rows]
    rows[3]["output.answer"] = rows[3]["output.answer"] + 1
    return rows


def write_folder(rows: list[dict[str, np.ndarray]], folder: Path) -> Path:
    folder.mkdir()
    for index, row in enumerate(rows):
        np.savez(folder / f"{index:05d}.npz", **row)
    return folder


# ------------------------------------------------------------------------------------------------ golden samples


def test_golden_samples_are_a_reference_that_brings_its_samples(tiny: Path, cli: Cli) -> None:
    golden = tiny.with_name("tiny.golden")
    found = document(cli("check", tiny, "--against", golden, "--json"))
    assert found["samples"] == 8
    assert found["reference"]["what"] == str(golden)
    assert "PyTorch" in found["reference"]["runs"]
    assert found["reference"]["note"].startswith("written by mmtrt ")
    assert len(found["reference"]["digest"]) == 64
    assert found["outputs"]["answer"]["sqnr_db"] > 100


def test_stress_that_saved_outputs_can_t_answer_is_told_and_not_passed(tiny: Path, cli: Cli) -> None:
    golden = tiny.with_name("tiny.golden")
    said = cli("check", tiny, "--against", golden, "--stress", "corner", "--json", "--no-cache")
    (case,) = document(said)["stress"]
    assert (case["kind"], case["verdict"], case["outputs"]) == ("corner", "not run", {})
    assert str(golden) in case["note"]
    assert "corner is not run" in said.err
    # What a candidate is held to itself in needs no reference.
    (again,) = document(cli("check", tiny, "--against", golden, "--stress", "determinism", "--json"))["stress"]
    assert again["verdict"] == "pass"


def test_golden_samples_are_a_candidate(tiny: Path, cli: Cli, tmp_path: Path) -> None:
    good = write_folder(golden_rows(tiny), tmp_path / "good")
    bad = write_folder(worse(golden_rows(tiny)), tmp_path / "bad")
    found = document(cli("check", good, "--against", tiny, "--json"))
    assert found["candidate"]["runs"] == "saved outputs"
    said = cli("check", bad, "--against", tiny, "--json")
    assert "precision" in said.err
    failed = document(said, 1)["outputs"]
    assert (failed["answer"]["verdict"], failed["match"]["verdict"]) == ("fail", "pass")


def test_both_sides_may_be_saved_in_any_order_of_the_samples(tiny: Path, cli: Cli, tmp_path: Path) -> None:
    rows = golden_rows(tiny)
    left = write_folder(rows, tmp_path / "left")
    right = write_folder(rows[::-1], tmp_path / "right")
    found = document(cli("check", left, "--against", right, "--json"))
    assert found["outputs"]["answer"]["max_abs"] == 0
    moved = write_folder(worse(rows)[::-1], tmp_path / "moved")
    assert document(cli("check", left, "--against", moved, "--json"), 1)["outputs"]["answer"][
        "max_abs"
    ] == pytest.approx(1)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_stacked_file_with_outputs_is_a_side(tiny: Path, cli: Cli, tmp_path: Path, suffix: str) -> None:
    rows = [row for row in golden_rows(tiny) if row["ids"].shape == golden_rows(tiny)[0]["ids"].shape]
    stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    path = tmp_path / f"golden{suffix}"
    if suffix == ".npz":
        np.savez(path, **stacked)
    else:
        pytest.importorskip("safetensors.numpy").save_file(stacked, path)
    assert document(cli("check", tiny, "--against", path, "--json"))["samples"] == len(rows)


def test_outputs_of_a_sample_that_comes_twice_are_each_judged(tiny: Path, cli: Cli, tmp_path: Path) -> None:
    rows = golden_rows(tiny)
    good = write_folder([*rows, *rows], tmp_path / "good")
    bad = write_folder([*rows, *worse(rows)], tmp_path / "bad")
    assert cli("check", good, "--against", good).code == 0
    assert cli("check", bad, "--against", good).code == 1
    assert cli("check", good, "--against", bad).code == 1


def test_samples_that_were_not_saved_are_told(tiny: Path, cli: Cli, tmp_path: Path) -> None:
    some = write_folder(golden_rows(tiny)[:4], tmp_path / "some")
    said = cli("check", tiny, "--against", some, "--samples", tiny.with_name("tiny.golden"), "--stress", "none")
    assert_told(said, 3, "holds no outputs for one of the samples", "record it again")


def test_samples_without_outputs_are_no_side(tiny: Path, cli: Cli) -> None:
    said = cli("check", tiny, "--against", tiny.with_name("tiny.calib"))
    assert_told(said, 3, "samples without outputs", "'output.'", "mmtrt record")
    assert_told(cli("bench", tiny.with_name("tiny.golden")), 3, "nothing can be run", "mmtrt check")


# ------------------------------------------------------------------------------------------------- Polygraphy


def test_outputs_of_polygraphy_are_matched_by_order(tiny: Path, cli: Cli, tmp_path: Path, lean_polygraphy: Any) -> None:
    rows = golden_rows(tiny)
    save_outputs(rows, tmp_path / "outputs.json")
    lean_polygraphy.save_json([{k: v[None] for k, v in inputs_of(row).items()} for row in rows], "inputs.json")
    samples = ("--samples", "inputs.json", "--json")
    found = document(cli("check", tiny, "--against", "outputs.json", *samples))
    assert found["samples"] == len(rows)
    assert "onnxrt-runner-N0" in found["reference"]["runs"]
    save_outputs(worse(rows), tmp_path / "moved.json")
    assert document(cli("check", "moved.json", "--against", tiny, *samples), 1)["outputs"]["match"]["verdict"] == "pass"
    assert document(cli("check", "moved.json", "--against", "outputs.json", "--json"), 1)["samples"] == len(rows)
    save_outputs(rows[:5], tmp_path / "short.json")
    said = cli("check", tiny, "--against", "short.json", "--samples", "inputs.json")
    assert_told(said, 3, "short.json holds the outputs of 5 samples", "inputs.json has 8", "order")
    assert_told(cli("check", tiny, "--against", "outputs.json"), 3, "outputs without the inputs", "--samples")


def test_batches_of_polygraphy_become_samples(tiny: Path, cli: Cli, tmp_path: Path, lean_polygraphy: Any) -> None:
    shape = golden_rows(tiny)[0]["ids"].shape
    rows = [row for row in golden_rows(tiny) if row["ids"].shape == shape]
    rows = [*rows, *rows][:4]
    save_outputs(rows, tmp_path / "outputs.json", at_once=2)
    feeds = [{k: np.stack([rows[i][k], rows[i + 1][k]]) for k in inputs_of(rows[0])} for i in (0, 2)]
    lean_polygraphy.save_json(feeds, "inputs.json")
    found = document(cli("check", tiny, "--against", "outputs.json", "--samples", "inputs.json", "--json"))
    assert found["samples"] == 4


def test_json_that_holds_no_outputs_is_told(tiny: Path, cli: Cli, lean_polygraphy: Any) -> None:
    lean_polygraphy.save_json([{"x": np.zeros(2)}], "inputs.json")
    assert_told(cli("check", tiny, "--against", "inputs.json"), 3, "inputs.json holds no outputs", "--save-outputs")
    Path("broken.json").write_text("{", encoding="utf-8")
    assert_told(cli("check", tiny, "--against", "broken.json"), 3, "broken.json is no readable JSON")
    two = {"lst": [["a", []], ["b", []]], "polygraphy_class": "RunResults"}
    Path("two.json").write_text(json.dumps(two), encoding="utf-8")
    assert_told(cli("check", tiny, "--against", "two.json"), 3, "2 runners (a, b)", "one runner")


# --------------------------------------------------------------------------------------- a recorded reference


def told(case: dict[str, Any]) -> list[Any]:
    budgets = {name: output["budget"] for name, output in case["outputs"].items()}
    return [*(case[key] for key in ("kind", "name", "sizes", "verdict", "note")), budgets]


def test_a_recorded_reference_runs_the_same_cases(tiny: Path, recorded: Path, cli: Cli) -> None:
    samples = tiny.with_name("tiny.golden")
    live = document(cli("check", tiny, "--against", "tiny_fusion:factory", "--samples", samples, "--json"))
    found = document(cli("check", tiny, "--against", recorded, "--json"))
    assert [told(case) for case in found["stress"]] == [told(case) for case in live["stress"]]
    assert {case["kind"] for case in found["stress"]} == set(KINDS)
    assert found["outputs"]["answer"]["sqnr_db"] == pytest.approx(live["outputs"]["answer"]["sqnr_db"], abs=6)
    assert found["sample_set"]["digest"] == live["sample_set"]["digest"]
    assert found["reference"]["runs"] == f"recorded outputs of {live['reference']['runs']}"
    assert found["reference"]["model"] == "tiny_fusion:factory"


def test_a_check_against_a_recorded_reference_needs_no_pytorch(tiny: Path, recorded: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nsys.modules['torch'] = None\nsys.argv = ['mmtrt', *sys.argv[1:]]\n"
        "from mmtrt.cli.main import main\nmain()\n"
    )
    command = [sys.executable, "-c", code, "check", str(tiny), "--against", str(recorded), "--json", "--no-cache"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=360, check=False)
    assert done.returncode == 0, done.stderr
    cases = json.loads(done.stdout)["stress"]
    assert {case["verdict"] for case in cases} == {"pass"}
    assert {case["kind"] for case in cases} == set(KINDS)


def test_a_fault_is_found_against_a_recorded_reference(tiny: Path, recorded: Path, cli: Cli) -> None:
    model = onnx.load(str(tiny))
    weight = next(t for t in model.graph.initializer if list(t.dims) == [5])
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) + 0.5, weight.name))
    onnx.save(model, "faulty.onnx")
    found = document(cli("check", "faulty.onnx", "--against", recorded, "--json"), 1)
    assert found["outputs"]["answer"]["verdict"] == "fail"
    assert "fail" in {case["verdict"] for case in found["stress"] if case["kind"] == "corner"}


def test_saved_outputs_have_no_layers_to_locate(tiny: Path, recorded: Path, cli: Cli) -> None:
    for against in (recorded, tiny.with_name("tiny.golden")):
        said = cli("check", tiny, "--against", against, "--stress", "none", "--locate", "--json")
        assert document(said)["located"] is None
        assert "can't be told" in said.err
        assert "has no graph" in said.err


def test_a_candidate_that_was_recorded_elsewhere_is_judged_with_its_cases(tiny: Path, recorded: Path, cli: Cli) -> None:
    samples = tiny.with_name("tiny.golden")
    said = cli("record", tiny, "--samples", samples, "-o", "there", "--stress", "corner", "--json")
    made = document(said)
    assert made["schema"] == "mmtrt.record/1"
    assert made["kinds"] == ["corner"]
    assert "onnxruntime" in made["runs"]
    found = document(cli("check", "there", "--against", recorded, "--json"))
    kinds = {case["kind"]: case["verdict"] for case in found["stress"]}
    assert (kinds["corner"], kinds["masked"]) == ("pass", "not run")
    assert found["candidate"]["precision"] == "fp32"
    again = document(cli("check", "there", "--against", "tiny_fusion:factory", "--stress", "corner", "--json"))
    assert {case["verdict"] for case in again["stress"]} == {"pass"}
    own = document(cli("record", tiny, "--samples", samples, "-o", "own", "--stress", "determinism", "--json"))
    assert own["stress"][0]["how"] == "again"
    (case,) = document(cli("check", "own", "--against", "own", "--stress", "determinism", "--json"))["stress"]
    assert case["verdict"] == "not run"


def test_a_case_that_the_reference_refused_when_it_was_recorded_is_refused(
    tiny: Path, recorded: Path, cli: Cli, tmp_path: Path
) -> None:
    copy = tmp_path / "refused"
    shutil.copytree(recorded, copy)
    about = json.loads((copy / "record.json").read_text())
    row = next(row for row in about["stress"] if row["named"][0]["kind"] == "corner")
    row["calls"][0]["error"] = "no such size"
    (copy / "record.json").write_text(json.dumps(about), encoding="utf-8")
    found = document(cli("check", tiny, "--against", copy, "--stress", "corner", "--json"))
    assert [case["note"] for case in found["stress"] if case["verdict"] == "reference refuses"] == ["no such size"]


def test_a_case_that_was_altered_is_told(tiny: Path, recorded: Path, cli: Cli, tmp_path: Path) -> None:
    copy = tmp_path / "altered"
    shutil.copytree(recorded, copy)
    file = copy / "stress" / "0000.npz"
    arrays = dict(np.load(file))
    np.savez(file, **{**arrays, "image": arrays["image"] + 1})
    assert_told(cli("check", tiny, "--against", copy), 3, "0000.npz was altered", "again")


def test_a_record_that_is_broken_is_bad_input(tiny: Path, recorded: Path, cli: Cli, tmp_path: Path) -> None:
    copy = tmp_path / "broken"
    shutil.copytree(recorded, copy)
    about = json.loads((copy / "record.json").read_text())
    case = about["stress"][0]
    strange = [{**case, key: value} for key, value in (("sizes", {"batch": math.inf}), ("named", [{"kind": "corner"}]))]
    strange.append({**case, "named": [{**case["named"][0], "allowance": "all of it"}]})
    for row in strange:
        (copy / "record.json").write_text(json.dumps({**about, "stress": [row]}), encoding="utf-8")
        assert_told(cli("check", tiny, "--against", copy), 3, "record.json can't be read", "again")
    (copy / "record.json").write_text(json.dumps(about), encoding="utf-8")
    file = copy / "stress" / "0000.npz"
    file.write_bytes(file.read_bytes()[:200])
    assert_told(cli("check", tiny, "--against", copy), 3, "0000.npz can't be read", "again")


def test_what_a_record_says_of_itself_is_text_in_the_summary(tiny: Path, recorded: Path, cli: Cli) -> None:
    shutil.copytree(recorded, "said")
    about = json.loads(Path("said/record.json").read_text())
    said = json.dumps(
        {**about, "precision": "fp32 | <img src=x>\n\n# Passed", "samples": {**about["samples"], "source": 5}}
    )
    Path("said/record.json").write_text(said, encoding="utf-8")
    assert cli("check", tiny, "--against", "said", "--stress", "none", "--summary", "summary.md").code == 0
    text = Path("summary.md").read_text(encoding="utf-8")
    assert "<img" not in text
    assert "\n# Passed" not in text


def test_a_name_that_is_no_utf_8_is_a_name(tiny: Path, cli: Cli) -> None:
    name = os.fsdecode(b"re\xff")
    samples = tiny.with_name("tiny.golden")
    assert cli("record", tiny, "--samples", samples, "--stress", "none", "-o", name).code == 0
    found = document(cli("check", tiny, "--against", name, "--junit", "junit.xml", "--summary", "summary.md", "--json"))
    assert found["reference"]["what"] == name


def test_a_source_is_recorded_for_the_ranges_that_its_candidate_knows(tiny: Path, cli: Cli) -> None:
    model = onnx.load(str(tiny))
    entry = next(entry for entry in model.metadata_props if entry.key == "mmtrt.spec")
    spec = json.loads(entry.value)
    spec["ranges"]["text"] = [2, 5, 11]
    entry.value = json.dumps(spec)
    onnx.save(model, "wide.onnx")
    samples = tiny.with_name("tiny.golden")
    said = cli("record", "tiny_fusion:factory", "--for", "wide.onnx", "--samples", samples, "--json")
    made = document(said)
    assert made["folder"] == "factory.record"
    assert max(case["sizes"]["text"] for case in made["stress"]) == 11


def test_a_record_is_replaced_and_nothing_else_is(tiny: Path, cli: Cli) -> None:
    command = ("record", tiny, "--samples", tiny.with_name("tiny.golden"), "--stress", "none", "-o", "rec")
    assert cli(*command).code == 0
    assert cli(*command, "--count", 3).code == 0
    assert len(list(Path("rec/samples").glob("*.npz"))) == 3
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine", encoding="utf-8")
    assert_told(cli(*command[:-1], "mine"), 3, "mine holds other files", "-o")
    assert Path("mine/notes.txt").exists()
    Path("rec/record.json").write_text('{"schema": "mmtrt.record/1"}', encoding="utf-8")
    assert_told(cli("check", tiny, "--against", "rec"), 3, "record.json can't be read", "again")


# ------------------------------------------------------------------------------------------- random samples


def test_random_samples_lie_within_the_ranges_and_are_said_to_be_no_data(tiny: Path, cli: Cli) -> None:
    command = ("check", tiny, "--against", tiny, "--stress", "none", "--json")
    found = document(cli(*command, "--samples", "random", "--count", 5))
    assert found["samples"] == 5
    assert (found["sample_set"]["source"], found["sample_set"]["on_data"]) == ("random", False)
    assert document(cli(*command))["sample_set"]["on_data"]


def test_random_samples_need_ranges(cli: Cli, tmp_path: Path) -> None:
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", "length"])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", "length"])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, "bare.onnx")
    said = cli("check", "bare.onnx", "--against", "bare.onnx", "--samples", "random")
    assert_told(said, 2, "sizes without a range", "length", "--samples")
