"""`mmtrt check --locate`: what it prints, draws and writes, and what it refuses."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import graphs
import numpy as np
import planting
import pytest
from refusals import Cli, assert_told

from mmtrt.artifacts import StageCache, file_digest, write_json
from mmtrt.engine.manifest import manifest_path
from mmtrt.errors import InputError
from mmtrt.isolation import death
from mmtrt.pipeline.checking import CheckRequest
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.locating import locate_files

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture
def broken(tiny: Path, tmp_path: Path) -> Path:
    return planting.planted(tiny, tmp_path, planting.bias_lost("hidden"))


def arguments(candidate: Path, tiny: Path) -> list[object]:
    samples = tiny.with_name("tiny.golden")
    return ["check", candidate, "--against", tiny, "--samples", samples, "--stress", "none"]


def test_the_bad_layer_is_printed_with_module_line_and_node(cli: Cli, broken: Path, tiny: Path) -> None:
    said = cli(*arguments(broken, tiny), "--locate")
    assert said.code == 1
    assert "first bad layer: hidden" in said.out
    source = (MODELS / "tiny_fusion.py").read_text(encoding="utf-8").splitlines()
    line = next(number for number, text in enumerate(source, 1) if "self.hidden(" in text)
    assert f"at models/tiny_fusion.py:{line}, Gemm node_linear_5" in said.out
    assert "inherited" in said.out


def test_json_has_all_layers(cli: Cli, broken: Path, tiny: Path) -> None:
    said = cli(*arguments(broken, tiny), "--locate", "--json")
    told = json.loads(said.out)["located"]
    assert told["first"]["module"] == "hidden"
    assert {row["verdict"] for row in told["layers"]} == {"clean", "bad", "inherited"}


def test_without_locate_there_is_none(cli: Cli, broken: Path, tiny: Path) -> None:
    assert json.loads(cli(*arguments(broken, tiny), "--json").out)["located"] is None


def test_a_picture_and_a_small_model_are_written_beside_the_verdict(cli: Cli, broken: Path, tiny: Path) -> None:
    said = cli(*arguments(broken, tiny), "--plot", "growth.svg", "--reduce", "small.onnx")
    folder = broken.parent
    assert said.code == 1
    assert "<svg" in (folder / "growth.svg").read_text(encoding="utf-8")
    assert "hidden" in said.out
    assert (folder / "small.onnx").stat().st_size > 0
    assert {name for name in np.load(folder / "small.npz") if name.startswith("output.")}
    assert sorted(path.name for path in folder.iterdir()) == [
        "candidate.onnx",
        "growth.svg",
        "small.npz",
        "small.onnx",
    ]


def test_a_check_that_passes_is_located_too(cli: Cli, tiny: Path) -> None:
    said = cli(*arguments(tiny, tiny), "--locate", "--reduce", "small.onnx")
    assert said.code == 0
    assert "no layer is bad" in said.out
    assert "nothing to reduce" in said.err


def test_an_engine_stands_for_the_onnx_that_it_was_built_from(broken: Path, tiny: Path) -> None:
    engine = broken.with_suffix(".engine")
    engine.write_bytes(b"engine")
    manifest = {
        "schema": "mmtrt.engine/1",
        "engine": {"sha256": file_digest(engine), "bytes": 6},
        "onnx": {"sha256": file_digest(broken)},
        "flavor": "tensorrt",
        "flavor_version": "10",
        "gpu": None,
        "precision": "fp32",
        "calibration": None,
        "inputs": [],
        "outputs": [],
        "profile": {},
        "options": {},
        "build_s": 1.0,
        "layers": None,
        "notes": [],
        "ran": False,
        "recipe": None,
    }
    notes: list[str] = []
    request = CheckRequest(
        candidate=str(engine), against=str(tiny), samples=str(tiny.with_name("tiny.golden")), stress=()
    )
    context = Context(cache=StageCache(None), note=notes.append)
    write_json(manifest_path(engine), manifest)
    found = locate_files(context, request)
    assert found.first is not None
    assert found.first.module == "hidden"
    assert any("candidate.onnx, from which it was built, stands for it" in note for note in notes)
    write_json(manifest_path(engine), {**manifest, "onnx": {"sha256": "0" * 64}})
    with pytest.raises(InputError, match="does not lie beside it"):
        locate_files(context, request)


@pytest.mark.parametrize(
    ("flags", "about"),
    [(("--plot", "growth.txt"), "picture"), (("--reduce", "small.pt"), "--reduce writes an ONNX")],
)
def test_names_that_can_not_be_written_are_told_before_the_check(
    flags: tuple[str, str], about: str, cli: Cli, broken: Path, tiny: Path
) -> None:
    said = cli(*arguments(broken, tiny), *flags)
    assert_told(said, 2, about)


@pytest.mark.parametrize(
    ("flags", "about"),
    [
        (("--reduce", "candidate.onnx"), "write over candidate.onnx"),
        (("--reduce", "read.onnx"), "write over read.npz"),
        (("--reduce", "folder.onnx"), "is a folder"),
        (("--plot", "candidate.onnx/growth.svg"), "is no folder"),
    ],
)
def test_places_that_can_not_be_written_are_told_before_the_check(
    flags: tuple[str, str], about: str, cli: Cli, broken: Path, tiny: Path
) -> None:
    (broken.parent / "folder.onnx").mkdir()
    before = broken.read_bytes()
    said = cli("check", broken, "--against", tiny, "--samples", "read.npz", *flags)
    assert_told(said, 2, about)
    assert broken.read_bytes() == before


def test_a_verdict_stands_where_the_process_that_locates_is_killed(
    cli: Cli, broken: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, what: str, **__: object) -> None:
        raise death(what, -signal.SIGKILL, "")

    monkeypatch.setattr("mmtrt.pipeline.locating.run_isolated", killed)
    said = cli(*arguments(broken, tiny), "--locate")
    assert said.code == 1
    assert "for want of memory" in said.err
    assert "is below" in said.out


def test_models_with_nothing_in_common_are_told(cli: Cli, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first = graphs.saved(graphs.mlp(rng), tmp_path / "a.onnx")
    waves = [graphs.node("Sin", [name], made) for name, made in (("x", "s"), ("s", "t"), ("t", "u"), ("u", "y"))]
    other = graphs.model(waves, {"x": ["batch", 8]}, {"y": ["batch", 8]}, {})
    second = graphs.saved(other, tmp_path / "b.onnx")
    np.savez(tmp_path / "set.npz", x=rng.standard_normal((4, 8)).astype(np.float32))
    said = cli("check", second, "--against", first, "--samples", "set.npz", "--stress", "none", "--locate")
    # The verdict stands, and its exit code; what was asked beside it can't be answered, and why is said.
    assert said.code == 1
    assert "no inner tensor in common" in said.err
    assert "builds of the same model" in said.err
