"""Two real builds of one model, by TensorRT-RTX, compared by their kernels; and two real runs, by ONNX Runtime."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from refusals import Cli

from mmtrt.artifacts import StageCache
from mmtrt.bench.ort_layers import ort_layer_times
from mmtrt.bench.slower import Builds
from mmtrt.errors import InputError
from mmtrt.onnx_files import model_spec, open_model
from mmtrt.pipeline.bench_builds import compare_engines, known_nodes, with_slower
from mmtrt.pipeline.benching import bench_feeds
from mmtrt.pipeline.building import BuildRequest, build_stage
from mmtrt.pipeline.context import Context
from mmtrt.results import BenchRow

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path, tiny: Path) -> Path:
    """A folder with `tiny.fp16.engine`, `tiny.int8.engine` of all INT8 that can be, and what lies beside them."""
    folder = tmp_path_factory.mktemp("builds")
    context = Context(cache=StageCache(shared_cache))
    samples = str(tiny.with_name("tiny.calib"))
    for precision, coverage in (("fp16", "auto"), ("int8", "full")):
        request = BuildRequest(model=tiny, folder=folder, precision=precision, samples=samples, coverage=coverage)
        build_stage(context, request)
    return folder


def test_what_speaks_against_an_int8_engine_is_told_without_a_gpu(builds: Path) -> None:
    found = compare_engines(builds / "tiny.fp16.engine", builds / "tiny.int8.engine")
    assert found.ratio is None
    assert found.kernels_after > found.kernels_before
    assert {group.branch for group in found.slower} <= {"image", "text", "fusion", "head:answer", "head:match"}
    assert any("for what was fused before" in why for group in found.slower for why in group.why)
    assert all(group.before_ms is None for group in found.slower)


def test_an_engine_against_itself_has_nothing_to_tell(builds: Path) -> None:
    found = compare_engines(builds / "tiny.fp16.engine", builds / "tiny.fp16.engine")
    assert found.slower == ()


def test_an_onnx_that_the_engine_was_not_built_from_is_not_believed(builds: Path, tmp_path: Path) -> None:
    for path in builds.glob("tiny.fp16.*"):
        shutil.copy(path, tmp_path)
    engine = tmp_path / "tiny.fp16.engine"
    assert known_nodes(engine) is not None
    shutil.copy(builds / "tiny.int8.onnx", tmp_path / "tiny.fp16.onnx")
    assert known_nodes(engine) is None
    with pytest.raises(InputError, match="the ONNX of"):
        compare_engines(engine, builds / "tiny.int8.engine")


def test_an_engine_without_its_table_is_told(builds: Path, tmp_path: Path) -> None:
    for path in builds.glob("tiny.fp16.*"):
        if not path.name.endswith(".layers.json"):
            shutil.copy(path, tmp_path)
    with pytest.raises(InputError, match="no table of its layers"):
        compare_engines(tmp_path / "tiny.fp16.engine", builds / "tiny.int8.engine")


def test_inspect_shows_it_of_two_engines(cli: Cli, builds: Path) -> None:
    pair = (builds / "tiny.fp16.engine", builds / "tiny.int8.engine")
    said = cli("inspect", *pair)
    assert said.code == 0, said.err
    assert "may not be faster than" in said.out
    assert "nothing ran" in said.out
    told = json.loads(cli("inspect", *pair, "--json").out)
    assert (told["schema"], told["kind"], told["ratio"]) == ("mmtrt.inspect/1", "builds", None)
    assert told["slower"][0]["why"]


def test_engines_of_different_models_are_refused(cli: Cli, builds: Path, tmp_path: Path) -> None:
    for path in builds.glob("tiny.fp16.*"):
        shutil.copy(path, tmp_path)
    manifest = tmp_path / "tiny.fp16.engine.json"
    told = json.loads(manifest.read_text())
    for model, words in (
        ({"source": "zoo:other", "digest": "0" * 64, "versions": {}}, "different models: of zoo:other and of"),
        ({**told["model"], "digest": "0" * 64}, "exported twice"),
    ):
        manifest.write_text(json.dumps({**told, "model": model}))
        said = cli("inspect", manifest.with_suffix(""), builds / "tiny.int8.engine")
        assert said.code == 3
        assert words in " ".join(said.err.split())


def test_an_onnx_is_no_build_to_compare(cli: Cli, builds: Path) -> None:
    said = cli("inspect", builds / "tiny.fp16.engine", builds / "tiny.int8.onnx")
    assert said.code == 2
    assert "tiny.int8.onnx is no engine" in " ".join(said.err.split())


def test_an_altered_engine_is_not_compared(builds: Path, tmp_path: Path) -> None:
    for path in builds.glob("tiny.fp16.*"):
        shutil.copy(path, tmp_path)
    engine = tmp_path / "tiny.fp16.engine"
    engine.write_bytes(engine.read_bytes() + b"x")
    with pytest.raises(InputError, match="not what its manifest tells of"):
        compare_engines(engine, builds / "tiny.int8.engine")


def row(path: Path, *, batch: int = 2, measured: bool = True) -> BenchRow:
    feeds = bench_feeds(model_spec(open_model(path)), {"batch": batch}, None)
    layers = ort_layer_times(path, feeds, duration_s=0.1, threads=1).to_json() if measured else None
    return BenchRow(
        file=str(path),
        runs="onnxruntime",
        clock="host",
        p50_ms=1,
        p90_ms=1,
        p99_ms=1,
        mean_ms=1,
        n=10,
        cuda_graph=False,
        transfers=True,
        shapes={},
        sizes={"batch": batch},
        layers=layers,
    )


def test_rows_that_ran_tell_where_the_second_is_slower(builds: Path) -> None:
    first, second = builds / "tiny.fp16.onnx", builds / "tiny.int8.onnx"
    alone, compared, elsewhere = with_slower([row(first), row(second), row(second, batch=1)])
    assert alone.layers is not None
    assert alone.layers["slower"] is None
    assert compared.layers is not None
    found = Builds.from_json(compared.layers["slower"])
    assert (found.before, found.after) == (str(first), str(second))
    assert found.ratio == pytest.approx(compared.layers["sum_ms"] / alone.layers["sum_ms"])
    # At other sizes it is the first itself.
    assert elsewhere.layers is not None
    assert elsewhere.layers["slower"] is None


def test_rows_without_layers_stay_as_they_are(builds: Path) -> None:
    rows = [row(builds / "tiny.fp16.onnx", measured=False), row(builds / "tiny.int8.onnx")]
    assert list(with_slower(rows)) == rows
