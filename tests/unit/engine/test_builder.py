"""The paths of a build that TensorRT-RTX does not reach, over the stand-in for `tensorrt`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmtrt.engine import build as builds
from mmtrt.engine.build import BuildOptions, EngineBuild, build_engine, int8_kept
from mmtrt.errors import BuildError, MachineError, ModelError, UsageError
from mmtrt.tensors import ShapeRange

pytestmark = pytest.mark.usefixtures("fakes", "orin")


@pytest.fixture(autouse=True)
def in_this_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the tests of the border between the two processes take the time to begin another."""
    if "across" not in request.fixturenames:
        monkeypatch.setattr(builds, "run_isolated", lambda call, job, **_: call(job))


@pytest.fixture
def across() -> None:
    """Ask for the builder to run in a process of its own."""


RANGE = {"x": ShapeRange(min=(1, 4), opt=(2, 4), max=(4, 4))}
INSPECTED = {
    "Layers": [
        {
            "Name": "fc1",
            "LayerType": "CaskGemmMatrixMultiply",
            "TacticName": "sm80_xmma_gemm",
            "Inputs": [{"Name": "x", "Dimensions": [2, 4], "Format/Datatype": "Row major Int8 format"}],
            "Outputs": [{"Name": "y", "Dimensions": [2, 4], "Format/Datatype": "Row major linear FP32"}],
            "Metadata": "[ONNX Layer: /fc1/MatMul]\x1e[ONNX Layer: /fc1/Add]",
        }
    ]
}


def make(onnx: Path, **options: Any) -> EngineBuild:
    profile = options.pop("profile", RANGE)
    return build_engine(onnx, onnx.with_suffix(".engine"), profile=profile, options=BuildOptions(**options))


def told(built: EngineBuild) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(built.engine.read_bytes()[64:])["told"]
    return data


def test_a_network_is_strongly_typed_and_built_for_the_profile(across: None, graph: Any) -> None:
    built = make(graph(inspector=json.dumps(INSPECTED)))
    assert (built.flavor, built.flavor_version, built.gpu and built.gpu.name) == ("tensorrt", "10.3.0", "Orin")
    assert told(built)["network_flags"] == 1 << 1
    assert told(built)["verbosity"] == "DETAILED"
    assert told(built)["profiles"] == [{"x": [[1, 4], [2, 4], [4, 4]]}]
    assert built.engine_bytes == built.engine.stat().st_size
    assert built.inputs[0].shape == ("batch", 4)
    assert built.outputs[0].shape == ("y_0", 4)


def test_layers_come_from_the_inspector_where_the_log_tells_none(graph: Any) -> None:
    built = make(graph(inspector=json.dumps(INSPECTED)))
    assert built.layers is not None
    assert built.layers[0].nodes == ("/fc1/MatMul", "/fc1/Add")
    assert int8_kept(built) == 1


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"inspector": '{"Layers": ["fc1"]}'}, "without detailed verbosity"),
        ({"unloadable": "no driver"}, "the builder told none"),
        ({"log": [[4, "Layers:\nwhat is this"]]}, "not understood"),
    ],
)
def test_layers_that_are_not_told_are_unknown_and_not_none(graph: Any, changes: Any, note: str) -> None:
    built = make(graph(**changes))
    assert built.layers is None
    assert int8_kept(built) is None
    assert note in " ".join(built.notes)


def test_release_11_has_no_other_networks(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_TENSORRT", "11")
    assert told(make(graph(unloadable="x")))["network_flags"] == 0


def test_weak_typing_sets_the_precision_flags(graph: Any) -> None:
    built = make(graph(unloadable="x"), typing="weak")
    assert told(built)["network_flags"] == 0
    assert told(built)["flags"] == ["FP16", "INT8"]


def test_weak_typing_is_refused_where_it_is_gone(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_TENSORRT", "11")
    with pytest.raises(UsageError, match="strongly typed"):
        make(graph(), typing="weak")


def test_options_reach_the_builder(graph: Any) -> None:
    built = make(
        graph(unloadable="x"),
        workspace_mib=512,
        optimization_level=2,
        hardware_compatibility="ampere_plus",
        version_compatible=True,
        compute_capability="SM89",
    )
    assert told(built)["pools"] == {"WORKSPACE": 512 << 20}
    assert told(built)["builder_optimization_level"] == 2
    assert told(built)["hardware_compatibility_level"] == "AMPERE_PLUS"
    assert told(built)["flags"] == ["VERSION_COMPATIBLE"]
    assert any("compute_capability = 'SM89' was passed by" in note for note in built.notes)


def test_a_hardware_compatibility_that_is_not_there_is_refused(graph: Any) -> None:
    with pytest.raises(UsageError, match="same_compute_capability"):
        make(graph(), hardware_compatibility="same_compute_capability")


@pytest.mark.parametrize("before", [None, b"old", b"mismatch", b"other gpu"])
def test_the_timing_cache_is_read_and_written(graph: Any, tmp_path: Path, before: bytes | None) -> None:
    cache = tmp_path / "timing.cache"
    if before is not None:
        cache.write_bytes(before)
    built = make(graph(unloadable="x"), timing_cache=cache)
    fresh = before not in {None, b"old"}
    assert cache.read_bytes() == (b"old+timed" if before == b"old" else b"+timed")
    assert any("made anew" in note for note in built.notes) is fresh


def test_the_builders_own_words_are_in_the_error(across: None, graph: Any) -> None:
    log = [[1, "first reason"], [1, "catchCudaError: echo"], [2, "a warning"]]
    with pytest.raises(BuildError) as caught:
        make(graph(outcome="none", log=log))
    assert "first reason" in str(caught.value)
    assert "echo" not in str(caught.value)


def test_too_little_memory_is_the_machines_fault(graph: Any) -> None:
    with pytest.raises(MachineError, match="ran out of memory"):
        make(graph(outcome="none", log=[[1, "Requested size was 9 bytes: OutOfMemory"]]))


def test_a_crash_of_the_builder_is_a_build_error_and_leaves_nothing(across: None, graph: Any, tmp_path: Path) -> None:
    onnx = graph(outcome="crash")
    with pytest.raises(BuildError, match="SIGSEGV"):
        make(onnx)
    assert list(tmp_path.iterdir()) == [onnx]


def test_an_old_engine_survives_a_build_that_fails(graph: Any, tmp_path: Path) -> None:
    (tmp_path / "model.engine").write_bytes(b"old")
    with pytest.raises(BuildError):
        make(graph(outcome="none"))
    assert (tmp_path / "model.engine").read_bytes() == b"old"


def test_refused_nodes_are_explained(across: None, graph: Any) -> None:
    rows = [{"desc": f"reason {i}", "node": f"/n{i}", "op": "Loop"} for i in range(12)]
    onnx = graph(errors=rows)
    known = {"/n0": "module model.head"}
    with pytest.raises(BuildError) as caught:
        build_engine(onnx, onnx.with_suffix(".engine"), profile=RANGE, options=BuildOptions(), explain=known.get)
    text = str(caught.value)
    assert "/n0 (Loop), from module model.head: reason 0" in text
    assert "/n1 (Loop): reason 1" in text
    assert "and 2 more" in text
    assert "control flow" in text


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"desc": 'x && "Plugin not found, sorry"', "node": "/a", "op": "Odd"},
            ["Plugin not found, sorry", "no operator Odd"],
        ),
        ({"desc": "zero point", "node": "/q", "op": "QuantizeLinear"}, ["zero point", "symmetric INT8"]),
        ({"desc": "oh", "node": "", "op": "Add"}, ["a node without a name (Add): oh", "opset 18"]),
        ({"desc": "whole file"}, ["whole file", "opset 18"]),
    ],
)
def test_each_refusal_says_how_to_mend_it(graph: Any, row: Any, words: list[str]) -> None:
    with pytest.raises(BuildError) as caught:
        make(graph(errors=[row]))
    assert all(word in str(caught.value) for word in words)


def test_a_parser_that_gives_no_reason(graph: Any) -> None:
    with pytest.raises(BuildError, match="no reason"):
        make(graph(errors=[]))


def test_old_parsers_do_not_know_the_operator(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_TENSORRT", "bare")
    with pytest.raises(BuildError, match="operator unknown"):
        make(graph(errors=[{"desc": "oh", "node": "/a", "op": "Add"}]))


def test_an_input_that_gives_shapes_is_refused(graph: Any) -> None:
    with pytest.raises(ModelError, match="'k' gives shapes"):
        make(graph(inputs={"k": {"shape": [2], "is_shape_tensor": True}}), profile={})


def test_a_profile_that_tensorrt_refuses(graph: Any) -> None:
    span = ShapeRange(min=(1,), opt=(1,), max=(1,))
    with pytest.raises(BuildError, match="profile"):
        make(graph(inputs={"refused": {"shape": [-1]}}), profile={"refused": span})


def test_warnings_are_notes(graph: Any) -> None:
    log = [[2, "weights in denormals"], [2, "weights in denormals"], [2, "logger differs from one already registered"]]
    built = make(graph(unloadable="x", log=log))
    assert built.notes.count("weights in denormals") == 1
    assert not any("already registered" in note for note in built.notes)


def test_a_missing_file_is_told_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no file"):
        make(tmp_path / "none.onnx")
