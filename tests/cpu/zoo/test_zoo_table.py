"""The command that runs the whole zoo, on some of its models: each from the trained module to the verdict."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
SUBSET = ("bev", "medical", "video")


def run(*arguments: str | Path, cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "zoo.py", *arguments],
        env={**os.environ, "MMTRT_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, dict[str, Any]]]:
    """The table as printed, and its rows by model."""
    pytest.importorskip("tensorrt_rtx")
    folder = tmp_path_factory.mktemp("zoo")
    done = run("--only", *SUBSET, "--out", folder / "zoo.json", cache=folder / "cache")
    assert done.returncode == 0, done.stderr
    result = json.loads((folder / "zoo.json").read_text(encoding="utf-8"))
    return done.stdout, {row["model"]: row for row in result["rows"]}


@pytest.mark.timeout(1200)
def test_each_model_is_built_and_within_its_recipe_s_budget(told: tuple[str, dict[str, dict[str, Any]]]) -> None:
    rows = told[1]
    assert tuple(rows) == SUBSET
    for model, row in rows.items():
        assert row["verdict"] == "pass", model
        assert set(row["verdicts"]) == {"fp32", "fp16", "int8"}
        assert all(size > 0 for size in row["engine_bytes"].values())
        assert row["onnx_bytes"]["int8"] < row["onnx_bytes"]["fp32"]
        assert row["int8"]["mac_share"] > 0.9


def test_accuracy_in_int8_is_that_of_pytorch(told: tuple[str, dict[str, dict[str, Any]]]) -> None:
    for model, row in told[1].items():
        assert row["reference_task"], model
        for metric, value in row["reference_task"].items():
            assert row["task"]["int8"][metric] > value - 0.01, (model, metric)


def test_the_table_has_a_line_for_each_metric(told: tuple[str, dict[str, dict[str, Any]]]) -> None:
    printed, rows = told
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + sum(len(row["reference_task"]) for row in rows.values())
    assert len({line.count("|") for line in lines}) == 1


def test_a_model_without_a_recipe_is_named(tmp_path: Path) -> None:
    done = run("--only", "vqa-coatention", "--out", tmp_path / "zoo.json", cache=tmp_path / "cache")
    assert done.returncode == 1
    assert "no recipe for vqa-coatention" in done.stderr
    assert not (tmp_path / "zoo.json").exists()
