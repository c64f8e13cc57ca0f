"""What a build reached is in its ONNX, and a check of it expects that."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from refusals import Cli, assert_told

from mmtrt.artifacts import StageCache
from mmtrt.onnx_files import metadata_of, set_metadata
from mmtrt.parity.budget import DEFAULTS
from mmtrt.pipeline.checking import CheckRequest, check_files
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.reached import MARGIN_DB, REACHED_KEY
from mmtrt.results import CheckResult


@pytest.fixture
def int8(tiny: Path, cli: Cli) -> Path:
    said = cli("build", tiny, "--int8", "-o", "built", "--json")
    assert said.code == 0, said.err
    document = json.loads(said.out)
    path = Path(document["artifacts"]["onnx"]).absolute()
    assert json.loads(metadata_of(onnx.load(str(path)))[REACHED_KEY]) == document["reached"]
    assert document["reached"].keys() == {"answer", "match"}
    return path


def checked(path: Path, tiny: Path, **given: object) -> CheckResult:
    samples = str(tiny.with_name("tiny.calib"))
    request = CheckRequest(candidate=str(path), against=str(tiny), samples=samples, stress=(), **given)  # type: ignore[arg-type]
    return check_files(Context(cache=StageCache(None)), request)


def test_a_check_expects_what_the_build_reached(int8: Path, tiny: Path) -> None:
    reached = json.loads(metadata_of(onnx.load(str(int8)))[REACHED_KEY])
    result = checked(int8, tiny)
    assert result.verdict == "pass"
    for name, output in result.outputs.items():
        assert output.budget["sqnr_db"] == pytest.approx(max(reached[name] - MARGIN_DB, DEFAULTS["int8"]["sqnr_db"]))


def test_a_fault_that_the_default_lets_pass_fails(int8: Path, tiny: Path, tmp_path: Path) -> None:
    proto = onnx.load(str(int8))
    reached = json.loads(metadata_of(proto)[REACHED_KEY])
    # What this model reaches is less than a trained one: told a little more, it is as if it had lost that much.
    set_metadata(proto, {REACHED_KEY: json.dumps({name: ratio + MARGIN_DB + 3 for name, ratio in reached.items()})})
    onnx.save(proto, str(tmp_path / "worse.onnx"))
    assert checked(tmp_path / "worse.onnx", tiny).verdict == "fail"
    # A bound that is given stands for it.
    assert checked(tmp_path / "worse.onnx", tiny, budget={"sqnr_db": 10.0}).verdict == "pass"


def test_a_record_that_is_broken_is_told(int8: Path, tiny: Path, tmp_path: Path, cli: Cli) -> None:
    proto = onnx.load(str(int8))
    set_metadata(proto, {REACHED_KEY: '{"answer": "much"}'})
    onnx.save(proto, str(tmp_path / "broken.onnx"))
    said = cli("check", tmp_path / "broken.onnx", "--against", tiny, "--samples", tiny.with_name("tiny.calib"))
    assert_told(said, 3, REACHED_KEY, "Build it again")


def test_random_samples_tell_nothing(tiny: Path, cli: Cli) -> None:
    said = cli("build", tiny, "--int8", "--calib", "random", "-o", "built", "--json")
    assert said.code == 0, said.err
    document = json.loads(said.out)
    assert document["reached"] == {}
    assert REACHED_KEY not in metadata_of(onnx.load(document["artifacts"]["onnx"]))


def test_a_fill_is_an_infinity(tiny: Path) -> None:
    from mmtrt.metrics import Comparison

    told = np.array([[1.0, 2.0, np.finfo(np.float32).min]], dtype=np.float32)
    for fill, non_finite in ((-3e4, 0), (-np.inf, 0), (-1e38, 0), (0.5, 1), (3e4, 1), (np.nan, 1)):
        comparison = Comparison()
        comparison.add(told, np.array([[1.0, 2.0, fill]], dtype=np.float32))
        assert comparison.non_finite == non_finite, fill
        assert comparison.sqnr_db == np.inf
