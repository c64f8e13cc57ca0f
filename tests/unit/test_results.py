from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmtrt.results import BenchResult, BenchRow, BuildResult, CheckResult, OutputResult, Ran, plain, unplaced

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(Path("a/b")),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(ANY)
def test_whatever_it_was_it_is_json(value: Any) -> None:
    data = plain(value)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert plain(data) == data


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (math.nan, None),
        (-math.inf, None),
        (np.float32("inf"), None),
        (np.float32(0.5), 0.5),
        (np.float64(0.5), 0.5),
        (np.int64(3), 3),
        (True, True),
        ((1, (2.5, "x")), [1, [2.5, "x"]]),
        ({1: Path("a") / "b"}, {"1": "a/b"}),
    ],
)
def test_numbers_stay_numbers_and_infinities_go(value: Any, wanted: Any) -> None:
    assert plain(value) == wanted
    assert type(plain(value)) is type(wanted)


ROW = BenchRow(
    file="a.onnx",
    runs="onnxruntime 1.0 CPU",
    clock="host",
    p50_ms=1.0,
    p90_ms=2.0,
    p99_ms=3.0,
    mean_ms=1.5,
    n=10,
    cuda_graph=False,
    transfers=True,
    shapes={"x": (1, 3)},
)


def test_a_benchmark_comes_back_from_json() -> None:
    result = BenchResult(results=(ROW,), machine={"cpu": "x", "cores": 2})
    data = json.loads(json.dumps(result.to_json()))
    assert data["schema"] == "mmtrt.bench/1"
    assert data["results"][0]["shapes"] == {"x": [1, 3]}
    assert data["results"][0]["p99_ms"] == 3
    back = BenchResult.from_json(data, not_run={"a.engine": "no GPU"}, cached=True)
    assert back.results == result.results
    assert (back.cached, back.not_run, back.machine) == (True, {"a.engine": "no GPU"}, result.machine)


def test_a_verdict_s_metrics_lie_flat() -> None:
    output = OutputResult(
        metrics={"sqnr_db": math.inf, "cosine": 1.0, "non_finite": 0},
        task={"accuracy": math.nan},
        intervals={"argmax_agreement": (0.5, 1.0)},
        budget={"cosine": 0.9},
        verdict="fail",
        why=("accuracy_drop nan is above 0",),
        kind="classes",
    )
    result = CheckResult(
        verdict="fail",
        candidate=Ran(what="b", runs="y"),
        reference=Ran(what="a", runs="x", precision="fp32"),
        samples=3,
        outputs={"answer": output},
    )
    data = result.to_json()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["schema"] == "mmtrt.check/1"
    assert data["outputs"]["answer"] == {
        "sqnr_db": None,
        "cosine": 1.0,
        "non_finite": 0,
        "task": {"accuracy": None},
        "reference_task": {},
        "intervals": {"argmax_agreement": [0.5, 1.0]},
        "budget": {"cosine": 0.9},
        "verdict": "fail",
        "why": ["accuracy_drop nan is above 0"],
        "kind": "classes",
        "note": "",
    }
    back = CheckResult.from_json(data).outputs["answer"]
    assert (back.intervals, back.kind) == (output.intervals, output.kind)
    older = {name: value for name, value in data["outputs"]["answer"].items() if name not in {"intervals", "kind"}}
    assert OutputResult.from_json(older).intervals == {}
    assert data["reference"] == {
        "what": "a",
        "runs": "x",
        "precision": "fp32",
        "note": "",
        "digest": "",
        "model": "",
    }


def test_a_build_says_that_it_did_not_run() -> None:
    result = BuildResult(
        precision="int8",
        flavor="tensorrt-rtx",
        flavor_version="1.7",
        artifacts={"onnx": "a.onnx"},
        engine_bytes=3,
        onnx_bytes=4,
        build_s=1.5,
        int8={"mac_share": np.float64(0.97)},
        calibration=None,
        kept=({"node": "n", "why": "w"},),
    )
    data = result.to_json()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert (data["schema"], data["ran_on_gpu"], data["cached"]) == ("mmtrt.build/1", False, False)
    assert data["kept"] == [{"node": "n", "why": "w"}]


def test_no_path_of_this_machine_is_left(tmp_path: Path) -> None:
    told = {
        "source": str(tmp_path / "vqa.calib"),
        "set": [f"vqa ({tmp_path}/set.npz)", f"hf:{tmp_path}/blip", f"read '{tmp_path}/a b'"],
        "node": ["/fc1/MatMul", "image/question", "12 GB/s", "zoo:vqa", "engines/out/vqa.onnx", "1/2"],
        "number": 3,
    }
    found = unplaced(told)
    assert found["source"] == "vqa.calib"
    assert found["set"][:2] == ["vqa (set.npz)", "hf:blip"]
    assert str(tmp_path) not in str(found)
    assert (found["node"], found["number"]) == (told["node"], 3)
