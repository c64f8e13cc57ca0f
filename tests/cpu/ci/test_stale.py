"""An engine that is older than what it is held to fails, also where it can't run."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from ci_documents import document
from refusals import Cli, assert_told

from mmtrt.engine.flavours import gpu
from mmtrt.onnx_files import set_metadata

pytestmark = pytest.mark.skipif(gpu() is not None, reason="there is a GPU: an engine that is not stale would run")


@pytest.fixture
def engine(tiny: Path, cli: Cli) -> Path:
    """An engine, and beside it the ONNX that it was built from."""
    said = cli("build", tiny, "--fp32", "-o", "built", "-q")
    assert said.code == 0, said.err
    return Path("built/tiny.engine")


def moved(tiny: Path, path: Path) -> Path:
    """The model with one weight moved: what a new training would give."""
    model = onnx.load(str(tiny))
    weight = next(t for t in model.graph.initializer if list(t.dims) == [5])
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) + 0.5, weight.name))
    onnx.save(model, str(path))
    return path


def assert_stale(cli: Cli, *command: object) -> None:
    found = document(cli("check", *command, "--json"), 1)
    assert found["verdict"] == "fail"
    assert found["note"].startswith("stale: built/tiny.engine was built from ")
    assert found["note"] == found["candidate"]["note"]
    assert found["candidate"]["runs"] == ""
    assert (found["samples"], found["outputs"]) == (0, {})


def test_an_engine_of_an_older_onnx_fails(tiny: Path, engine: Path, cli: Cli) -> None:
    against = moved(tiny, Path("tiny.onnx"))
    assert_stale(cli, engine, "--against", against)
    assert_stale(cli, engine, "--against", "tiny.onnx")
    moved(tiny, engine.with_suffix(".onnx"))
    assert_stale(cli, engine, "--against", tiny)
    said = cli("check", engine, "--against", tiny)
    assert "build it again" in said.out


def test_an_engine_of_its_onnx_can_t_run_and_is_not_stale(tiny: Path, engine: Path, cli: Cli) -> None:
    for against in (tiny, "tiny_fusion:factory", tiny.with_name("tiny.golden")):
        assert_told(cli("check", engine, "--against", against), 4, "no GPU")


def test_an_engine_of_an_older_source_fails(tiny: Path, engine: Path, recorded: Path, cli: Cli) -> None:
    manifest = Path("built/tiny.engine.json")
    about = json.loads(manifest.read_text())
    assert about["model"]["source"] == "tiny_fusion:factory"
    older = {**about, "model": {**about["model"], "digest": "0" * 64}}
    manifest.write_text(json.dumps(older))
    for against in ("tiny_fusion:factory", recorded, tiny):
        assert_stale(cli, engine, "--against", against)
    # The digest of a source tells PyTorch's version too: another one says nothing of the weights.
    older["model"]["versions"]["torch"] = "1.0"
    manifest.write_text(json.dumps(older))
    assert_told(cli("check", engine, "--against", "tiny_fusion:factory"), 4, "no GPU")


def test_a_manifest_of_an_earlier_version_asks_the_onnx_beside(tiny: Path, engine: Path, cli: Cli) -> None:
    model = onnx.load(str(tiny))
    spec = json.loads(next(entry.value for entry in model.metadata_props if entry.key == "mmtrt.spec"))
    set_metadata(model, {"mmtrt.spec": json.dumps({**spec, "digest": "0" * 64})})
    onnx.save(model, "built/older.onnx")
    said = cli("build", "built/older.onnx", "--fp32", "-o", "built", "-q")
    assert said.code == 0, said.err
    manifest = Path("built/older.engine.json")
    manifest.write_text(json.dumps({k: v for k, v in json.loads(manifest.read_text()).items() if k != "model"}))
    found = document(cli("check", "built/older.engine", "--against", "tiny_fusion:factory", "--json"), 1)
    assert "before its weights or its code changed" in found["note"]
