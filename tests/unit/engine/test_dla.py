"""DLA cores, and typing that falls back, over the stand-in for `tensorrt`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmtrt.engine import build as builds
from mmtrt.engine.build import BuildOptions, EngineBuild, build_engine
from mmtrt.engine.dla import place_on_dla
from mmtrt.errors import BuildError, MachineError, UsageError
from mmtrt.tensors import ShapeRange

pytestmark = pytest.mark.usefixtures("fakes", "orin")

FIXED = {"x": ShapeRange(min=(2, 4), opt=(2, 4), max=(2, 4))}
REFUSED = {"outcome": "none", "log": [[1, "strongly typed networks take no such layer"]]}


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builds, "run_isolated", lambda call, job, **_: call(job))


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_TENSORRT_DLA", "2")


def make(onnx: Path, **options: Any) -> EngineBuild:
    profile = options.pop("profile", FIXED)
    return build_engine(onnx, onnx.with_suffix(".engine"), profile=profile, options=BuildOptions(**options))


def told(built: EngineBuild) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(built.engine.read_bytes()[64:])["told"]
    return data


# ------------------------------------------------------------------------------------------------------- DLA


def test_release_10_builds_fp16_for_the_dla_by_flags(graph: Any, two_cores: None) -> None:
    built = make(graph(unloadable="x"), dla_core=1, typing="auto")
    assert (told(built)["device"], told(built)["DLA_core"]) == ("DLA", 1)
    assert told(built)["network_flags"] == 0
    assert told(built)["flags"] == ["FP16", "GPU_FALLBACK"]
    assert any("DLA core 1" in note for note in built.notes)


def test_release_11_builds_for_the_dla_strongly_typed_and_takes_q_dq(
    graph: Any, two_cores: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TENSORRT", "11")
    built = make(graph(unloadable="x", kinds=["QUANTIZE", "CONVOLUTION"]), dla_core=0)
    assert (told(built)["device"], told(built)["flags"]) == ("DLA", ["GPU_FALLBACK"])


def test_without_fallback_the_gpu_takes_nothing(graph: Any, two_cores: None) -> None:
    assert told(make(graph(unloadable="x"), dla_core=0, gpu_fallback=False))["flags"] == ["FP16"]


@pytest.mark.parametrize("cores", ["0", "1"])
def test_a_core_that_is_not_there_is_the_machines_fault(
    graph: Any, monkeypatch: pytest.MonkeyPatch, cores: str
) -> None:
    monkeypatch.setenv("FAKE_TENSORRT_DLA", cores)
    with pytest.raises(MachineError, match=f"finds {cores} DLA cores"):
        make(graph(), dla_core=1)


def test_tensorrt_rtx_is_not_asked_for_a_dla(graph: Any) -> None:
    with pytest.raises(MachineError, match="TensorRT-RTX has no DLA"):
        place_on_dla(None, None, None, None, "tensorrt-rtx", BuildOptions(dla_core=0), {})


def test_a_dla_takes_one_shape(graph: Any, two_cores: None) -> None:
    with pytest.raises(UsageError, match=r"input 'x' has a range: \[1, 4\] to \[4, 4\]"):
        make(graph(), dla_core=0, profile={"x": ShapeRange(min=(1, 4), opt=(2, 4), max=(4, 4))})


@pytest.mark.parametrize("kind", ["QUANTIZE", "DEQUANTIZE"])
def test_a_quantised_model_is_refused_where_the_dla_takes_none(graph: Any, two_cores: None, kind: str) -> None:
    with pytest.raises(BuildError, match=f"no Q/DQ.*/{kind.lower()}_1"):
        make(graph(kinds=["CONVOLUTION", kind]), dla_core=0)


def test_options_without_a_dla_place_nothing(graph: Any, two_cores: None) -> None:
    built = make(graph(unloadable="x"))
    assert (told(built)["device"], told(built)["DLA_core"]) == ("GPU", None)


def test_a_core_below_none_is_refused() -> None:
    with pytest.raises(UsageError, match="dla_core is -1"):
        BuildOptions(dla_core=-1)


# ---------------------------------------------------------------------------------------------------- typing


def test_auto_is_strong_where_that_builds(graph: Any) -> None:
    built = make(graph(unloadable="x"), typing="auto")
    assert (told(built)["network_flags"], told(built)["flags"]) == (1 << 1, [])
    assert not any("weakly" in note for note in built.notes)


@pytest.mark.parametrize(
    ("strongly", "why"),
    [
        (REFUSED, "strongly typed networks take no such layer"),
        ({"errors": [{"desc": "types differ", "node": "/q", "op": "QuantizeLinear"}]}, "types differ"),
    ],
    ids=["the builder", "the parser"],
)
def test_auto_falls_back_to_weak_over_the_same_graph_and_says_why(graph: Any, strongly: Any, why: str) -> None:
    built = make(graph(unloadable="x", strongly=strongly), typing="auto")
    assert (told(built)["network_flags"], told(built)["flags"]) == (0, ["FP16", "INT8"])
    assert any("weakly typed" in note and why in note for note in built.notes)


def test_auto_fails_where_neither_builds(graph: Any) -> None:
    with pytest.raises(BuildError, match="the second reason"):
        make(graph(strongly=REFUSED, outcome="none", log=[[1, "the second reason"]]), typing="auto")


def test_auto_has_one_way_where_typing_is_always_strong(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_TENSORRT", "11")
    assert told(make(graph(unloadable="x"), typing="auto"))["flags"] == []
    with pytest.raises(BuildError):
        make(graph(outcome="none"), typing="auto")


def test_too_little_memory_is_no_reason_to_type_weakly(graph: Any) -> None:
    strongly = {"outcome": "none", "log": [[1, "OutOfMemory"]]}
    with pytest.raises(MachineError, match="ran out of memory"):
        make(graph(strongly=strongly), typing="auto")
