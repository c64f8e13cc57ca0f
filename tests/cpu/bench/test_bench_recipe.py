"""A recipe that asks for one measurement more: over sizes, in a scenario, against PyTorch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from refusals import Cli, assert_told

from mmtrt.pipeline.bench_recipe import bench_more, check_recipe_sizes
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.sides import open_subject
from mmtrt.recipe import load_recipe
from mmtrt.results import BuildResult

RECIPE = """
[model]
source = "tiny_fusion:factory"

[precision]
build = ["fp32"]

[bench]
duration_s = 0.02
"""


def build(onnx: Path) -> BuildResult:
    return BuildResult(
        precision="fp32",
        flavor="tensorrt-rtx",
        flavor_version="1.7.1",
        artifacts={"onnx": str(onnx), "engine": str(onnx.with_suffix(".engine"))},
        engine_bytes=1,
        onnx_bytes=1,
        build_s=1.0,
        int8=None,
        calibration=None,
    )


@pytest.mark.parametrize(
    ("bench", "batches", "files"),
    [
        ("sweep = {batch = [1, 4], text = [3]}", [1, 4], 1),
        ('against = ["torch"]', [1, 1], 2),
        ('scenario = "offline"', [8], 1),
        ('scenario = "offline"\nsweep.text = [2, 8]', [8, 8], 1),
        ("sizes = {batch = 3}\nsweep.text = [2]", [3], 1),
    ],
)
def test_a_recipe_names_what_is_measured_more(
    tmp_path: Path, tiny: Path, bench: str, batches: list[int], files: int
) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(f"{RECIPE}{bench}\n")
    recipe = load_recipe(path)
    assert recipe.bench.more
    check_recipe_sizes(open_subject(str(tiny)).spec, recipe)
    found = bench_more(Context(), recipe, [build(tiny)])
    assert [row.shapes["ids"][0] for row in found.results] == batches
    assert len({row.file for row in found.results}) == files


def test_a_run_tells_it_and_shows_it(cli: Cli) -> None:
    Path("tiny.toml").write_text(f'{RECIPE}sweep.batch = [1, 2]\n[parity]\nstress = ["batch"]\n')
    said = cli("run", "tiny.toml", "-o", "out", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert [row["sizes"] for row in found["bench_more"]["results"]] == [{"batch": 1}, {"batch": 2}]
    assert found["recipe"]["bench"]["sweep"] == {"batch": [1, 2]}
    said = cli("run", "tiny.toml", "-o", "out")
    assert "batch 2" in said.out


@pytest.mark.parametrize(
    ("bench", "words"),
    [
        ("sweep.batsch = [1]", ("'batsch'", "batch, text")),
        ("sweep.batch = [9]", ("batch = 9", "1 to 8")),
        ('scenario = "single-stream"\nsweep.batch = [2]', ("single-stream", "batch")),
    ],
)
def test_a_wrong_sweep_is_told_before_anything_is_built(cli: Cli, bench: str, words: tuple[str, ...]) -> None:
    Path("tiny.toml").write_text(f"{RECIPE}{bench}\n")
    said = cli("run", "tiny.toml", "-o", "out")
    assert said.code == 2, said.err
    assert "[bench]" in said.err
    for word in words:
        assert word in said.err
    assert not list(Path("out").glob("*.engine"))


def test_a_pipeline_of_parts_is_measured_at_one_shape(cli: Cli) -> None:
    Path("talk.toml").write_text('[model]\nsource = "parts_fusion:speaking"\n[bench]\nscenario = "offline"\n')
    assert_told(cli("run", "talk.toml", "-o", "out"), 2, "parts", "one shape")
