"""TensorRTRunner over a CUDA in memory and the stand-in for `tensorrt`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmtrt.artifacts import file_digest
from mmtrt.bench.contenders import TellsNotes
from mmtrt.bench.memory import TellsMemory
from mmtrt.errors import InputError, MachineError, MeasurementError, ModelError
from mmtrt.runtimes import Runner
from mmtrt.runtimes.cuda import Cuda
from mmtrt.runtimes.tensorrt import TensorRTRunner
from mmtrt.tensors import TensorSpec

pytestmark = pytest.mark.usefixtures("fakes", "orin")

HEADER = b"ftrt".ljust(64, b"\0")


@pytest.fixture
def cuda(fakes: None) -> Any:
    import fake_cuda

    return fake_cuda.FakeCuda()


@pytest.fixture
def plan(tmp_path: Path) -> Any:
    def write(manifest: dict[str, Any] | None = None, **changes: Any) -> Path:
        graph = {"inputs": {"x": {"shape": [-1, 4]}}, "outputs": {"y": {"shape": [-1, 4]}}, **changes}
        path = tmp_path / "model.engine"
        path.write_bytes(HEADER + json.dumps({"graph": graph}).encode())
        if manifest is not None:
            data = {
                "schema": "mmtrt.engine/1",
                "flavor": "tensorrt",
                "flavor_version": "10.3.0",
                "engine": {"sha256": file_digest(path)},
                **manifest,
            }
            path.with_name("model.engine.json").write_text(json.dumps(data), encoding="utf-8")
        return path

    return write


@contextmanager
def entered(path: Path, cuda: Any) -> Iterator[TensorRTRunner]:
    with TensorRTRunner(path, device=lambda: cuda) as runner:
        yield runner
    assert cuda.closed
    assert not cuda.left_over()


def ones(batch: int) -> dict[str, Any]:
    return {"x": np.full((batch, 4), 1.5, np.float32)}


def test_it_runs_and_gives_everything_back(plan: Any, cuda: Any) -> None:
    assert isinstance(cuda, Cuda)
    with entered(plan(), cuda) as runner:
        assert isinstance(runner, Runner)
        assert runner.runs == "TensorRT 10.3.0 on Fake"
        assert runner.inputs == (TensorSpec(name="x", dtype="float32", shape=("x_0", 4)),)
        assert runner.outputs == (TensorSpec(name="y", dtype="float32", shape=("y_0", 4)),)
        np.testing.assert_array_equal(runner.infer(ones(3))["y"], np.full((3, 4), 3.0, np.float32))


def test_names_of_sizes_come_from_the_manifest(plan: Any, cuda: Any) -> None:
    rows = {"inputs": [{"name": "x", "shape": ["batch", 4]}], "outputs": [{"name": "y", "shape": ["batch", 4]}]}
    with entered(plan(rows), cuda) as runner:
        assert runner.inputs[0].shape == ("batch", 4)
        assert runner.outputs[0].shape == ("batch", 4)


def test_memory_grows_with_the_shapes_and_is_used_again(plan: Any, cuda: Any) -> None:
    with entered(plan(), cuda) as runner:
        runner.infer(ones(4))
        before = dict(cuda.memory)
        for batch in (1, 4, 2):
            assert runner.infer(ones(batch))["y"].shape == (batch, 4)
        assert cuda.memory.keys() == before.keys()


def test_its_memory_is_what_loading_took_and_what_the_lanes_hold(plan: Any, cuda: Any) -> None:
    # Somebody else's, before: it is not the engine's.
    other = cuda.alloc(100)
    with TensorRTRunner(plan(), device=lambda: cuda) as runner:
        assert isinstance(runner, TellsMemory)
        loaded = runner.device_bytes
        assert loaded == sum(block.nbytes for block in cuda.memory.values()) - 100 > 0
        later = cuda.alloc(1000)
        runner.infer(ones(4))
        assert runner.device_bytes == loaded + 2 * ones(4)["x"].nbytes
        with runner.timed(ones(4), cuda_graph=True, transfers=True):
            assert runner.device_bytes == sum(block.nbytes for block in cuda.memory.values()) - 1100
        assert runner.device_bytes == loaded + 2 * ones(4)["x"].nbytes
        cuda.free(later)
        cuda.free(other)


def test_memory_that_cuda_does_not_tell_is_unknown(plan: Any, cuda: Any) -> None:
    cuda.fail(1, "free_bytes")
    with entered(plan(), cuda) as runner:
        assert runner.device_bytes is None
        assert runner.infer(ones(1))


def test_a_graph_that_is_refused_is_in_the_notes(plan: Any, cuda: Any) -> None:
    with entered(plan(), cuda) as runner:
        assert isinstance(runner, TellsNotes)
        assert runner.notes == ()
        cuda.fail(1, "begin_capture")
        for _ in range(2):
            runner.infer(ones(1))
        assert "runs without CUDA graphs: begin_capture failed" in runner.notes[0]


def test_results_are_copies(plan: Any, cuda: Any) -> None:
    with entered(plan(), cuda) as runner:
        first = runner.infer(ones(2))["y"]
        runner.infer({"x": np.zeros((2, 4), np.float32)})
        assert (first == 3).all()


def test_arrays_that_are_not_contiguous_run(plan: Any, cuda: Any) -> None:
    x = np.arange(8, dtype=np.float32).reshape(4, 2).T
    with entered(plan(), cuda) as runner:
        np.testing.assert_array_equal(runner.infer({"x": x})["y"], x * 2)


def test_an_input_without_elements_runs(plan: Any, cuda: Any) -> None:
    path = plan(inputs={"x": {"shape": [-1, 0]}}, outputs={"y": {"shape": [-1, 0]}})
    with entered(path, cuda) as runner:
        assert runner.infer({"x": np.zeros((2, 0), np.float32)})["y"].shape == (2, 0)


@pytest.mark.parametrize("batch", [0, 5])
def test_a_size_outside_the_profile_names_input_axis_and_range(plan: Any, cuda: Any, batch: int) -> None:
    with entered(plan(), cuda) as runner:
        with pytest.raises(InputError, match=rf"'x' has size {batch} on axis 0, the engine takes 1 to 4"):
            runner.infer(ones(batch))
        assert runner.infer(ones(1))


@pytest.mark.parametrize(
    "feeds",
    [{}, {"x": np.ones((1, 4), np.float64)}, {"x": np.ones((1, 5), np.float32)}, {**ones(1), "z": np.ones(1)}],
)
def test_wrong_feeds_are_input_errors(plan: Any, cuda: Any, feeds: Any) -> None:
    with entered(plan(), cuda) as runner, pytest.raises(InputError):
        runner.infer(feeds)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"fails": "illegal memory access"}, "illegal memory access"),
        ({"refuse_shape": 1}, "refuses shape"),
        ({"unset": ["k"]}, "k is not set"),
        ({"refuse_address": 1}, "refuses the memory"),
    ],
)
def test_what_fails_while_running_is_a_measurement_error(plan: Any, cuda: Any, changes: Any, reason: str) -> None:
    with entered(plan(**changes), cuda) as runner:
        with pytest.raises(MeasurementError, match=reason):
            runner.infer(ones(1))
        with (
            pytest.raises(MeasurementError, match=reason),
            runner.timed(ones(1), cuda_graph=False, transfers=False),
        ):
            pytest.fail("it began")


def test_outputs_whose_shape_depends_on_data_are_refused(plan: Any, cuda: Any) -> None:
    with entered(plan(data_dependent=1), cuda) as runner, pytest.raises(ModelError, match="depends on the data"):
        runner.infer(ones(1))


def test_everything_is_given_back_after_an_error_inside(plan: Any, cuda: Any) -> None:
    runner = TensorRTRunner(plan(), device=lambda: cuda)
    with pytest.raises(InputError), runner:
        runner.infer({**ones(4), "z": ones(1)["x"]})
    assert cuda.closed
    with pytest.raises(RuntimeError, match="outside its with-block"):
        _ = runner.runs


def test_too_little_memory_is_told_and_the_rest_given_back(plan: Any, cuda: Any) -> None:
    cuda.limit = 300
    with entered(plan(), cuda) as runner, pytest.raises(MachineError, match="out of memory"):
        runner.infer(ones(4))


def test_an_error_of_the_stream_at_the_end_does_not_hide_the_first(plan: Any, cuda: Any) -> None:
    def broken(_: int) -> None:
        raise MachineError("sticky error")

    cuda.sync = broken
    with pytest.raises(InputError), TensorRTRunner(plan(), device=lambda: cuda) as runner:
        runner.infer({})
    assert cuda.closed


@pytest.mark.parametrize("changes", [{"unloadable": "sm_87 needed"}, {"no_context": 1}])
@pytest.mark.parametrize("manifest", [None, {}, {"gpu": {"name": "NVIDIA H200"}}])
def test_an_engine_that_does_not_load_says_why(plan: Any, cuda: Any, changes: Any, manifest: Any) -> None:
    with pytest.raises(MachineError, match=r"can't load model\.engine on Fake") as caught:
        TensorRTRunner(plan(manifest, **changes), device=lambda: cuda).__enter__()
    assert changes.get("unloadable", "no reason") in str(caught.value)
    assert ("built with tensorrt 10.3.0" in str(caught.value)) is (manifest is not None)
    assert ("H200" in str(caught.value)) is bool(manifest)
    assert cuda.closed


@pytest.mark.parametrize(
    ("lie", "named"),
    [
        ({"inputs": {"x": 1}}, "'inputs'"),
        ({"inputs": [{"shape": [1]}]}, "'inputs'"),
        ({"outputs": [{"name": "y", "shape": "batch"}]}, "'outputs'"),
        ({"outputs": ["y"]}, "'outputs'"),
        ({"engine": "x"}, "'engine'"),
        ({"options": [1]}, "'options'"),
        ({"gpu": "x"}, "'gpu'"),
    ],
)
def test_a_manifest_that_is_none_names_what_is_wrong(plan: Any, cuda: Any, lie: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=rf"model\.engine\.json is broken: {named}"):
        TensorRTRunner(plan(lie), device=lambda: cuda).__enter__()


def test_a_file_that_is_replaced_while_it_is_loaded_changes_nothing(plan: Any, cuda: Any) -> None:
    path = plan({})

    def opened() -> Any:
        # The digest is proven by now, and nothing is deserialised yet.
        path.write_bytes(b"ftrt" + b"x" * 100)
        return cuda

    with TensorRTRunner(path, device=opened) as runner:
        path.unlink()
        assert runner.infer(ones(1))


def test_an_altered_engine_is_not_loaded(plan: Any, cuda: Any) -> None:
    path = plan({})
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(InputError, match="altered"):
        TensorRTRunner(path, device=lambda: cuda).__enter__()
    assert not cuda.closed


@pytest.mark.parametrize(
    ("row", "kind", "words"),
    [
        ({"shape": [2], "location": "HOST"}, ModelError, "lies on the host"),
        ({"shape": [2], "dtype": "BF16"}, InputError, "bfloat16, which numpy lacks"),
        ({"shape": [2], "dtype": "FP8"}, InputError, "fp8"),
    ],
)
def test_tensors_that_can_not_be_fed_are_refused(plan: Any, cuda: Any, row: Any, kind: Any, words: str) -> None:
    with pytest.raises(kind, match=words):
        TensorRTRunner(plan(inputs={"x": row}), device=lambda: cuda).__enter__()
    assert cuda.closed


def test_host_code_is_allowed_only_for_engines_that_were_built_so(plan: Any, cuda: Any) -> None:
    with entered(plan({"options": {"version_compatible": True}}), cuda):
        assert sys.modules["tensorrt"].Runtime.host_code is True
    cuda.closed = False
    with entered(plan({"options": {}}), cuda):
        assert sys.modules["tensorrt"].Runtime.host_code is False


@pytest.mark.parametrize(("options", "core"), [({"dla_core": 1}, 1), ({"dla_core": None}, -1), ({}, -1)])
def test_an_engine_runs_on_the_dla_core_that_it_was_built_for(plan: Any, cuda: Any, options: Any, core: int) -> None:
    with entered(plan({"options": options}), cuda):
        assert sys.modules["tensorrt"].Runtime.core == core


@pytest.mark.parametrize(("kind", "strategy"), [("10", "eager"), ("bare", None)])
def test_kernels_are_specialised_at_once(
    plan: Any, cuda: Any, monkeypatch: pytest.MonkeyPatch, kind: str, strategy: str | None
) -> None:
    monkeypatch.setenv("FAKE_TENSORRT", kind)
    with entered(plan(), cuda):
        config = sys.modules["tensorrt"].Context.last.config
        assert getattr(config, "dynamic_shapes_kernel_specialization_strategy", None) == strategy


def test_without_a_gpu_nothing_is_loaded(plan: Any, no_gpu: None) -> None:
    with pytest.raises(MachineError, match="needs an NVIDIA GPU") as caught:
        TensorRTRunner(plan()).__enter__()
    assert caught.value.exit_code == 4
