"""Session over a CUDA in memory and the stand-in for `tensorrt`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmtrt
from mmtrt import Session
from mmtrt.errors import InputError, UsageError

pytestmark = pytest.mark.usefixtures("fakes", "orin")

HEADER = b"ftrt".ljust(64, b"\0")


@pytest.fixture
def cuda(fakes: None) -> Any:
    import fake_cuda

    return fake_cuda.FakeCuda()


@pytest.fixture
def plan(tmp_path: Path) -> Any:
    def write(**changes: Any) -> Path:
        graph = {"inputs": {"x": {"shape": [-1, 4]}}, "outputs": {"y": {"shape": [-1, 4]}}, **changes}
        path = tmp_path / "model.engine"
        path.write_bytes(HEADER + json.dumps({"graph": graph}).encode())
        return path

    return write


@contextmanager
def opened(path: Path, cuda: Any, **options: Any) -> Iterator[Session]:
    with Session(path, device=lambda: cuda, **options) as session:
        yield session
    assert cuda.closed
    assert not cuda.left_over()


def ones(batch: int, value: float = 1.5) -> Any:
    return np.full((batch, 4), value, np.float32)


def test_it_runs_by_name_and_by_mapping(plan: Any, cuda: Any) -> None:
    with opened(plan(), cuda) as session:
        np.testing.assert_array_equal(session.run(x=ones(3))["y"], ones(3, 3))
        np.testing.assert_array_equal(session.run({"x": ones(2)})["y"], ones(2, 3))
        assert session.runs == "TensorRT 10.3.0 on Fake"
        assert session.ranges["x"].max == (4, 4)


def test_the_second_run_of_a_shape_records_a_graph_and_the_third_replays_it(plan: Any, cuda: Any) -> None:
    with opened(plan(), cuda) as session:
        for turn in range(5):
            np.testing.assert_array_equal(session.run(x=ones(3, turn))["y"], ones(3, 2 * turn))
            assert (len(cuda.graphs), cuda.calls["launch"]) == (int(turn > 0), max(0, turn - 1))


def test_graphs_can_be_switched_off(plan: Any, cuda: Any) -> None:
    with opened(plan(), cuda, graphs=0) as session:
        for _ in range(3):
            session.run(x=ones(3))
        assert not cuda.graphs


@pytest.mark.parametrize("shares_memory", [False, True])
def test_a_bound_run_replays_one_graph_over_pinned_memory(plan: Any, fakes: None, shares_memory: bool) -> None:
    import fake_cuda

    cuda = fake_cuda.FakeCuda(shares_memory=shares_memory)
    with Session(plan(), device=lambda: cuda) as session:
        bound = session.bind(x=(3, 4))
        assert bound.cuda_graph
        cuda.calls.clear()
        for turn in range(4):
            bound.inputs["x"][...] = turn
            np.testing.assert_array_equal(bound.run()["y"], ones(3, 2 * turn))
        assert dict(cuda.calls) == {"activate": 4, "launch": 4, "sync": 4}
        kept = bound.outputs["y"]
        del bound
    with_arrays = cuda.closed
    np.testing.assert_array_equal(kept, ones(3, 6))
    del kept
    assert not with_arrays
    assert cuda.closed
    assert not cuda.left_over()


def test_a_closed_session_says_so(plan: Any, cuda: Any) -> None:
    with Session(plan(), device=lambda: cuda) as session:
        bound = session.bind(x=ones(2))
        np.testing.assert_array_equal(bound.run()["y"], ones(2, 3))
    with pytest.raises(InputError, match="the session is closed"):
        session.run(x=ones(1))
    with pytest.raises(InputError, match="closed"):
        bound.run()
    session.close()
    del bound
    assert cuda.closed
    assert not cuda.left_over()


def test_wrong_calls(plan: Any, cuda: Any) -> None:
    with opened(plan(), cuda) as session:
        for call, kind, words in (
            (lambda: session.run(xx=ones(1)), InputError, "Did you mean 'x'"),
            (lambda: session.run(x=[[1.0]]), InputError, "list, and no tensor"),
            (lambda: session.run([ones(1)]), InputError, "by name"),
            (lambda: session.run({"x": ones(1)}, x=ones(1)), InputError, "given twice"),
            (lambda: session.run(x=ones(1), out={"z": ones(1)}), InputError, "no output 'z'"),
            (lambda: session.run(x=ones(1), out={"y": ones(2)}), InputError, "1x4 is needed"),
            (lambda: session.run(x=ones(1), outputs="tf"), UsageError, "unknown"),
            (lambda: session.bind(x=("a", 4)), InputError, "neither a tensor nor a shape"),
            (lambda: session.bind(x=(9, 4)), InputError, "takes 1 to 4"),
        ):
            with pytest.raises(kind, match=words):
                call()
        assert session.run(x=ones(1))


def test_a_session_of_an_engine_needs_numpy_and_tensorrt_alone(plan: Any) -> None:
    code = """
import sys
import fake_cuda, numpy as np
import mmtrt
assert "numpy" in sys.modules and "mmtrt.session" not in sys.modules
with mmtrt.Session(sys.argv[1], device=fake_cuda.FakeCuda) as session, session.bind(x=(2, 4)) as bound:
    session.run(x=np.ones((2, 4), np.float32))
    bound.run()
print(*sorted(sys.modules))
"""
    paths = [Path(__file__).parent / "fakes", Path(mmtrt.__file__).parents[1]]
    done = subprocess.run(
        [sys.executable, "-c", code, str(plan())],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"onnx", "onnxruntime", "torch", "cuda", "pycuda", "typer", "rich", "pydantic"}


def test_two_outputs_in_one_memory_are_refused(plan: Any, cuda: Any) -> None:
    path = plan(outputs={"y": {"shape": [-1, 4]}, "z": {"shape": [-1, 4]}})
    memory = np.zeros((4, 4), np.float32)
    with opened(path, cuda) as session:
        for one, other in ((memory[:2], memory[:2]), (memory[:2], memory[1:3]), (memory[::-1][:2], memory[2:])):
            with pytest.raises(InputError, match="'y' and 'z' is the same, or overlaps"):
                session.run(x=ones(2), out={"y": one, "z": other})
        # Interleaved is not overlapping, and what an input lies in may be written over.
        told = session.run(x=memory[:2], out={"y": memory[:2], "z": memory[2:]})
        assert told["y"].base is memory
        session.run(x=ones(2), out={"y": memory[::2], "z": memory[1::2]})
        assert (memory[::2] == 3).all()


def test_what_is_no_input_at_all_is_told(plan: Any, cuda: Any) -> None:
    with opened(plan(), cuda) as session:
        with pytest.raises(InputError, match="masked array"):
            session.run(x=np.ma.masked_array(ones(2), mask=ones(2) > 0))
        with pytest.raises(InputError, match="no input 3"):
            session.run({"x": ones(2), 3: ones(2)})
        with pytest.raises(InputError, match="given by name, and this is list"):
            session.run(x=ones(2), out=[ones(2)])
        assert session.run(x=ones(2))


@pytest.mark.parametrize(("shapes", "least"), [(17, 0.85), (20, 0.7), (32, 0.4)])
def test_shapes_in_turn_are_replayed_for_the_most_part(plan: Any, cuda: Any, shapes: int, least: float) -> None:
    with opened(plan(inputs={"x": {"shape": [-1, 4], "most": shapes}}), cuda, graphs=16) as session:
        for _ in range(4):
            for batch in range(1, shapes + 1):
                session.run(x=ones(batch))
        before, turns = cuda.calls["launch"], 40
        for _ in range(turns):
            for batch in range(1, shapes + 1):
                session.run(x=ones(batch))
        assert (cuda.calls["launch"] - before) / (turns * shapes) >= least


def test_one_shape_more_than_there_are_graphs_does_not_cost_the_others_theirs(plan: Any, cuda: Any) -> None:
    with opened(plan(), cuda, graphs=3) as session:
        for turn in range(20):
            before = cuda.calls["launch"]
            for batch in (1, 2, 3, 4):
                np.testing.assert_array_equal(session.run(x=ones(batch, turn))["y"], ones(batch, 2 * turn))
            # The buffers have grown by then, and all three were recorded once.
            assert turn < 3 or cuda.calls["launch"] - before >= 2
            assert len(cuda.graphs) <= 3
        assert cuda.calls["end_capture"] <= 3 + 20 / 2
