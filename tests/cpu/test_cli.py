"""Each command's usual way, as a user takes it: what it prints, what it makes, what it returns."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import mmtrt as package

Done = subprocess.CompletedProcess
Mmtrt = Callable[..., "Done[str]"]
COMMANDS = ("export", "build", "check", "sensitivity", "bench", "run", "inspect", "doctor", "bundle")
RECIPE = """
description = "tests"

[model]
source = "tiny_fusion:factory"

[calibration]
count = 64

[parity]
metrics = {answer = "accuracy", match = "accuracy"}
budget = {int8 = {"answer:sqnr_db" = 15, "cosine" = 0.98}}

[bench]
duration_s = 0.02
"""


def document(said: Done[str], schema: str) -> dict[str, Any]:
    """The one document on stdout; the people's text is on stderr."""
    assert said.returncode == 0, said.stderr
    found: dict[str, Any] = json.loads(said.stdout)
    assert found["schema"] == schema
    return found


# ----------------------------------------------------------------------------------------------------------- help


def test_help_and_version(mmtrt: Mmtrt) -> None:
    said = mmtrt("--help")
    assert said.returncode == 0
    for command in COMMANDS:
        assert command in said.stdout
    assert "Exit codes" in said.stdout
    assert mmtrt().stdout == said.stdout
    assert mmtrt("--version").stdout.strip() == package.__version__


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of(mmtrt: Mmtrt, command: str) -> None:
    said = mmtrt(command, "--help")
    assert said.returncode == 0
    assert not said.stderr
    assert f"mmtrt {command}" in said.stdout
    assert "--json" in said.stdout


# --------------------------------------------------------------------------------------------------------- export


def test_export_of_a_source_that_tells_little(mmtrt: Mmtrt, tmp_path: Path) -> None:
    (tmp_path / "small_model.py").write_text(
        "import torch\n"
        "class Fixed(torch.nn.Linear):\n"
        "    def forward(self, input):\n"
        "        torch._check(input.shape[0] < 6)\n"
        "        if input.shape[0] > 5: raise ValueError('five at most')\n"
        "        return super().forward(input)\n"
        "def factory():\n"
        "    torch.manual_seed(0)\n"
        "    return Fixed(6, 3).eval(), {'input': torch.randn(4, 6)}\n"
    )
    said = mmtrt("export", "small_model:factory", "-o", "new/nested é", "--json")
    found = document(said, "mmtrt.export/1")
    low, opt, high = found["spec"]["ranges"]["batch"]
    assert (low, opt, high) == (1, 4, 5)
    assert any("batch" in text and "5" in text for text in found["warnings"])
    assert any("offers no samples" in text for text in found["warnings"])
    assert "note: " in said.stderr
    assert found["artifacts"]["onnx"] == "new/nested é/small_model.onnx"
    for made in found["artifacts"].values():
        assert (tmp_path / made).exists()
    assert len(found["verified"]) == 3
    quiet = mmtrt("export", "small_model:factory", "-o", "again/", "--quiet")
    assert quiet.returncode == 0
    assert not quiet.stderr
    assert "nothing had changed" in quiet.stdout


# ---------------------------------------------------------------------------------------------------------- build


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_build(mmtrt: Mmtrt, tiny: Path, tmp_path: Path, precision: str) -> None:
    said = mmtrt("build", tiny, f"--{precision}", "-o", tmp_path / "made", "--json")
    found = document(said, "mmtrt.build/1")
    assert found["precision"] == precision
    assert found["flavor"] in {"tensorrt", "tensorrt-rtx"}
    assert re.match(r"\d+\.\d+", found["flavor_version"])
    assert found["ran_on_gpu"] is False
    assert found["build_s"] >= 0
    for kind in ("onnx", "engine", "manifest"):
        assert Path(found["artifacts"][kind]).is_file()
    engine = Path(found["artifacts"]["engine"])
    assert engine.name == ("tiny.engine" if precision == "fp32" else f"tiny.{precision}.engine")
    assert engine.stat().st_size == found["engine_bytes"]
    if precision == "fp32":
        assert found["int8"] is found["calibration"] is None
        return
    assert {"samples", "method", "wall_s", "inference_s", "peak_rss_mib", "source"} <= found["calibration"].keys()
    # FP16 stops once its ranges are clear.
    assert 32 <= found["calibration"]["samples"] <= 40
    assert found["calibration"]["samples"] == 40 or precision == "fp16"
    # Another process of the tests may have made the stage, over its own copy of the set.
    assert Path(found["calibration"]["source"]).name == "tiny.calib"
    assert all({"node", "module", "precision", "why"} <= kept.keys() for kept in found["kept"])
    if precision == "int8":
        assert 0 < found["int8"]["nodes"] <= found["int8"]["of"]
        assert 0.5 < found["int8"]["mac_share"] <= 1


def foreign(path: Path, samples: int = 33) -> Path:
    """An ONNX that mmtrt did not export, and a set beside it: nothing tells its sizes but the samples."""
    rng = np.random.default_rng(0)
    weights = {"a": rng.standard_normal((32, 64)), "b": rng.standard_normal((64, 16))}
    nodes = [
        helper.make_node("MatMul", ["words", "a"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "b"], ["scores"], name="second"),
    ]
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("words", TensorProto.FLOAT, ["n", "time", 32])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", "time", 16])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    folder = path.with_name(f"{path.stem}.calib")
    folder.mkdir()
    for index in range(samples):
        array = rng.standard_normal((3 + index % 5, 32)).astype(np.float32)
        np.savez(folder / f"{index}.npz", words=array)
    return path


def test_build_of_a_foreign_model(mmtrt: Mmtrt, tmp_path: Path) -> None:
    foreign(tmp_path / "odd näme" / "their model.onnx")
    said = mmtrt("build", "odd näme/their model.onnx", "--int8", "--json")
    found = document(said, "mmtrt.build/1")
    assert found["artifacts"]["engine"] == "odd näme/their model.int8.engine"
    assert found["calibration"]["samples"] == 33
    manifest = json.loads((tmp_path / found["artifacts"]["manifest"]).read_text())
    span = manifest["profile"]["words"]
    assert (span["min"], span["opt"], span["max"]) == ([1, 3, 32], [1, 5, 32], [8, 7, 32])


def test_equal_inputs_give_equal_bytes(mmtrt: Mmtrt, tiny: Path, tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        said = mmtrt("build", tiny, "--int8", "-o", name, "-q", MMTRT_CACHE_DIR=str(tmp_path / f"cache-{name}"))
        assert said.returncode == 0, said.stderr
        made.append((tmp_path / name / "tiny.int8.onnx").read_bytes())
    assert made[0] == made[1]


# ------------------------------------------------------------------------------------------------ check and bench


def test_check_says_pass_and_fail(mmtrt: Mmtrt, tiny: Path) -> None:
    said = mmtrt("check", tiny, "--against", "tiny_fusion:factory", "--json")
    found = document(said, "mmtrt.check/1")
    assert found["verdict"] == "pass"
    assert found["samples"] == 40
    assert found["candidate"]["what"] == str(tiny)
    assert "onnxruntime" in found["candidate"]["runs"]
    assert "PyTorch" in found["reference"]["runs"]
    keys = {"sqnr_db", "cosine", "max_abs", "rel_l2", "argmax_agreement", "non_finite", "budget", "verdict"}
    assert all(keys <= row.keys() for row in found["outputs"].values())
    assert set(found["outputs"]) == {"answer", "match"}
    said = mmtrt("check", tiny, "--against", "tiny_fusion:factory", "--budget", "answer:max_abs=-1", "--json")
    assert said.returncode == 1
    found = json.loads(said.stdout)
    assert found["verdict"] == "fail"
    assert found["outputs"]["answer"]["verdict"] == "fail"
    assert found["outputs"]["match"]["verdict"] == "pass"


def test_bench_of_two(mmtrt: Mmtrt, tiny: Path) -> None:
    said = mmtrt("bench", tiny, "tiny_fusion:factory", "--duration", "0.02", "--shapes", "ids:2x[4]", "--json")
    assert said.returncode == 2, "neither trtexec's way nor Polygraphy's"
    said = mmtrt("bench", tiny, "tiny_fusion:factory", "--duration", "0.02", "--shapes", "ids:[2,4]", "--json")
    found = document(said, "mmtrt.bench/1")
    assert [row["file"] for row in found["results"]] == [str(tiny), "tiny_fusion:factory"]
    for row in found["results"]:
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["clock"] == "host"
        assert row["n"] >= 10
        assert row["shapes"] == {"image": [2, 3, 16, 16], "ids": [2, 4], "mask": [2, 4]}
        assert {"runs", "mean_ms", "cuda_graph", "transfers"} <= row.keys()
    (ratio,) = found["ratio"].values()
    assert ratio["ci95"][0] <= ratio["p50"] <= ratio["ci95"][1]


# ------------------------------------------------------------------------------------------------------------ run


def test_run_twice(mmtrt: Mmtrt, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(RECIPE)
    said = mmtrt("run", "tiny.toml", "--json")
    found = document(said, "mmtrt.run/1")
    assert found["verdict"] == "pass"
    assert found["cached"] is False
    assert found["recipe"]["name"] == "tiny"
    assert [build["precision"] for build in found["builds"]] == ["fp32", "fp16", "int8"]
    assert {row["schema"] for row in found["builds"]} == {"mmtrt.build/1"}
    assert {row["schema"] for row in found["checks"]} == {"mmtrt.check/1"}
    assert found["builds"][2]["calibration"]["samples"] == 64
    assert found["checks"][2]["outputs"]["answer"]["task"].keys() == {"accuracy"}
    assert {"sqnr_db": 15, "cosine": 0.98}.items() <= found["checks"][2]["outputs"]["answer"]["budget"].items()
    assert len(found["bench"]["results"]) == 4
    folder = tmp_path / "engines/out/tiny"
    assert json.loads((folder / "report.json").read_text()) == found
    again = mmtrt("run", "tiny.toml", "-o", "elsewhere")
    assert again.returncode == 0, again.stderr
    for word in ("PyTorch", "FP32", "FP16", "INT8", "pass"):
        assert word in again.stdout
    again = mmtrt("run", "tiny.toml", "--json")
    assert document(again, "mmtrt.run/1")["cached"] is True
    assert "nothing was done" in again.stderr
    assert json.loads((folder / "report.json").read_text())["cached"] is True


# ---------------------------------------------------------------------------------------------- inspect and doctor


def test_inspect(mmtrt: Mmtrt, tiny: Path, tmp_path: Path) -> None:
    assert mmtrt("build", tiny, "--int8", "-o", "made", "-q").returncode == 0
    found = document(mmtrt("inspect", tiny, "--json"), "mmtrt.inspect/1")
    assert (found["kind"], found["precision"]) == ("onnx", "fp32")
    assert found["spec"]["ranges"] == {"batch": [1, 2, 8], "text": [2, 5, 8]}
    assert found["macs"] > 0
    found = document(mmtrt("inspect", "made/tiny.int8.onnx", "--json"), "mmtrt.inspect/1")
    assert found["precision"] == "int8"
    assert found["conversion"]["calibration"]["samples"] == 40
    assert found["weights"]["int8"] > 0
    found = document(mmtrt("inspect", "made/tiny.int8.engine", "--json"), "mmtrt.inspect/1")
    assert (found["kind"], found["integrity"]) == ("engine", "matches")
    assert found["manifest"]["precision"] == "int8"
    assert sum(row["macs"] for row in found["layers"]) > 0
    assert any(row["precision"] == "int8" for row in found["layers"])
    assert {module for row in found["layers"] for module in row["modules"]} >= {"stem", "block", "hidden"}
    assert 0 < found["manifest"]["layers"]["int8_mac_share"] <= 1
    assert "only move data" in mmtrt("inspect", "made/tiny.int8.engine").stdout
    found = document(mmtrt("inspect", tiny.with_name("tiny.calib"), "--json"), "mmtrt.inspect/1")
    assert (found["kind"], found["count"]) == ("samples", 40)
    assert found["tensors"]["ids"]["max"] < 20
    for file in ("made/tiny.int8.onnx", "made/tiny.int8.engine"):
        said = mmtrt("inspect", file)
        assert said.returncode == 0
        assert "40 samples" in said.stdout


def test_doctor(mmtrt: Mmtrt) -> None:
    found = document(mmtrt("doctor", "--json"), "mmtrt.doctor/1")
    assert all({"state", "name", "detail", "fix"} <= row.keys() for row in found["findings"])
    assert mmtrt("doctor").returncode == 0


def test_no_cache_leaves_nothing_behind(mmtrt: Mmtrt, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    places = {"TMPDIR": str(tmp_path / "temporary"), "MMTRT_CACHE_DIR": str(tmp_path / "cache")}
    said = mmtrt("build", tiny, "--fp16", "--no-cache", "-o", "made", "--json", **places)
    assert document(said, "mmtrt.build/1")["cached"] is False
    assert not list((tmp_path / "temporary").glob("mmtrt*"))
    assert not (tmp_path / "cache").exists()
