"""Sessions that nobody closes: what is dropped is given back, also in odd moments, and in a forked child not at all."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmtrt import Session
from mmtrt.errors import MachineError
from mmtrt.runtimes.tensorrt import TensorRTRunner

pytestmark = pytest.mark.usefixtures("fakes", "orin")

X = np.full((2, 4), 1.5, np.float32)


@pytest.fixture
def make_cuda(fakes: None) -> Any:
    import fake_cuda

    return fake_cuda.FakeCuda


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    graph = {"inputs": {"x": {"shape": [-1, 4]}}, "outputs": {"y": {"shape": [-1, 4]}}}
    path = tmp_path / "model.engine"
    path.write_bytes(b"ftrt".ljust(64, b"\0") + json.dumps({"graph": graph}).encode())
    return path


def test_a_session_that_is_dropped_gives_all_back_and_says_so(plan: Path, make_cuda: Any) -> None:
    cuda = make_cuda()
    session = Session(plan, device=lambda: cuda)
    for _ in range(3):
        session.run(x=X)
    with pytest.warns(ResourceWarning, match=r"model\.engine was dropped without close"):
        del session
    assert cuda.closed
    assert not cuda.left_over()


def test_a_bound_run_keeps_its_session(plan: Path, make_cuda: Any) -> None:
    cuda = make_cuda()
    bound = Session(plan, device=lambda: cuda).bind(x=X)
    gc.collect()
    np.testing.assert_array_equal(bound.run()["y"], X * 2)
    with pytest.warns(ResourceWarning, match="dropped"):
        bound.close()
    del bound
    assert cuda.closed
    assert not cuda.left_over()


def test_a_runner_that_is_dropped_gives_all_back(plan: Path, make_cuda: Any) -> None:
    cuda = make_cuda()
    runner = TensorRTRunner(plan, device=lambda: cuda).__enter__()
    runner.infer({"x": X})
    del runner
    assert cuda.closed
    assert not cuda.left_over()


@pytest.mark.filterwarnings("ignore:.*dropped without close:ResourceWarning")
def test_what_the_collector_finds_while_a_graph_is_recorded_waits(
    plan: Path, make_cuda: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One GPU, as the driver sees it: what frees memory in a thread that records spoils the graph.
    other = make_cuda()
    dropped = [Session(plan, device=lambda: other)]
    dropped[0].run(x=X)
    cuda = make_cuda()
    freed: list[str] = []

    def noting(name: str) -> Any:
        real = getattr(other, name)

        def call(*args: Any) -> Any:
            freed.append(name)
            return real(*args)

        return call

    for name in ("free", "free_host", "destroy_stream", "close"):
        monkeypatch.setattr(other, name, noting(name))
    begin = cuda.begin_capture

    def begin_and_drop(stream: int) -> None:
        begin(stream)
        dropped.clear()
        assert freed == []

    monkeypatch.setattr(cuda, "begin_capture", begin_and_drop)
    with Session(plan, device=lambda: cuda) as session:
        for _ in range(3):
            np.testing.assert_array_equal(session.run(x=X)["y"], X * 2)
        assert cuda.graphs
        assert session.notes == ()
    assert freed
    assert other.closed
    assert not other.left_over()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_is_told_and_touches_nothing(plan: Path, make_cuda: Any) -> None:
    cuda = make_cuda()
    session = Session(plan, device=lambda: cuda)
    bound = session.bind(x=X)
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        words = []
        before = dict(cuda.calls)
        for call in (lambda: session.run(x=X), bound.run, lambda: session.bind(x=X)):
            try:
                call()
            except MachineError as error:
                words.append(str(error))
        bound.close()
        session.close()
        del bound, session
        os.write(tell, json.dumps([words, before == dict(cuda.calls)]).encode())
        os._exit(0)
    os.waitpid(child, 0)
    words, untouched = json.loads(os.read(told, 1 << 16))
    os.close(told)
    os.close(tell)
    assert len(words) == 3
    assert all("was opened in process" in text and "'spawn'" in text for text in words)
    assert untouched
    np.testing.assert_array_equal(session.run(x=X)["y"], X * 2)
    session.close()
    del bound
    assert not cuda.left_over()
