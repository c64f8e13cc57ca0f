"""Whatever CUDA call fails, nothing leaks and the next run works; sessions under threads, and closed midway."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmtrt import Session
from mmtrt.errors import InputError, MachineError, MmtrtError

pytestmark = pytest.mark.usefixtures("fakes", "orin")


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


def rows(batch: int, value: float = 1.5) -> Any:
    return np.full((batch, 4), value, np.float32)


def work(session: Session) -> None:
    """Grow, replay, evict, bind: each kind of call to CUDA."""
    for batch in (1, 1, 1, 4, 4, 4, 2, 1, 2, 1):
        np.testing.assert_array_equal(session.run(x=rows(batch, batch))["y"], rows(batch, 2 * batch))
    session.run(x=rows(2), outputs="dlpack")
    with session.bind(x=(2, 4)) as bound:
        bound.inputs["x"][...] = 3
        np.testing.assert_array_equal(bound.run()["y"], rows(2, 6))


def count_calls(plan: Path, make_cuda: Any) -> int:
    cuda = make_cuda()
    with Session(plan, device=lambda: cuda, graphs=2) as session:
        work(session)
    return sum(count for name, count in cuda.calls.items())


def test_each_call_may_fail_and_the_next_run_works(plan: Path, make_cuda: Any) -> None:
    told = 0
    for call in range(1, count_calls(plan, make_cuda) + 1):
        cuda = make_cuda()
        cuda.fail(call)
        try:
            session = Session(plan, device=lambda cuda=cuda: cuda, graphs=2)
        except MachineError as error:
            told += "as the test wants it" in str(error)
        else:
            with session:
                for _ in range(2):
                    try:
                        work(session)
                    except MmtrtError as error:
                        told += "as the test wants it" in str(error)
                np.testing.assert_array_equal(session.run(x=rows(3))["y"], rows(3, 3))
        assert cuda.closed, call
        assert not cuda.left_over(), call
    assert told > 50


@pytest.mark.parametrize("name", ["free", "free_host", "destroy_stream", "destroy_graph"])
def test_what_fails_while_giving_back_stops_nothing_else_from_it(plan: Path, make_cuda: Any, name: str) -> None:
    cuda = make_cuda()
    session = Session(plan, device=lambda: cuda)
    work(session)
    cuda.fail(1, name)
    with pytest.raises(MachineError, match=name):
        session.close()
    assert cuda.closed
    assert not cuda.left_over()
    with pytest.raises(InputError, match="closed"):
        session.run(x=rows(1))


def test_a_lost_device_is_said_to_be_lost(plan: Path, make_cuda: Any) -> None:
    cuda = make_cuda()
    with Session(plan, device=lambda: cuda) as session:
        session.run(x=rows(2))
        cuda.lost = "CUDA_ERROR_ILLEGAL_ADDRESS"
        for _ in range(2):
            with pytest.raises(MachineError, match="CUDA is lost to this process") as caught:
                session.run(x=rows(2))
            assert "Start the process again" in str(caught.value)
    assert cuda.closed
    assert not cuda.left_over()


def test_four_threads_with_changing_shapes_grow_nothing_and_say_what_one_says(plan: Path, make_cuda: Any) -> None:
    cuda = make_cuda()
    wrong: list[object] = []
    sizes: list[float] = []

    def run(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for turn in range(1500):
            x = rng.standard_normal((int(rng.integers(1, 5)), 4)).astype(np.float32)
            y = session.run(x=x)["y"]
            if not np.array_equal(y, x * 2):
                wrong.append((seed, turn))

    with Session(plan, device=lambda: cuda, contexts=3, graphs=3) as session:
        for _ in range(2):
            threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            held = sum(block.nbytes for block in [*cuda.memory.values(), *cuda.host.values()])
            sizes.append(held / len(cuda.streams))
        assert len(cuda.streams) <= 3
        assert len(cuda.graphs) <= 9
    assert wrong == []
    # A workspace, and both tensors on both sides of the bus, for each context.
    assert sizes == [256 + 4 * 64] * 2
    assert not cuda.left_over()


def test_closing_waits_for_runs_and_later_ones_are_told(plan: Path, make_cuda: Any) -> None:
    for _ in range(20):
        cuda = make_cuda()
        session = Session(plan, device=lambda cuda=cuda: cuda, contexts=2)
        bound = session.bind(x=(1, 4))
        told: list[str] = []
        begun = threading.Barrier(5)

        def run(bound: Any = bound, session: Session = session, told: Any = told, begun: Any = begun) -> None:
            begun.wait()
            try:
                while True:
                    session.run(x=rows(2))
                    bound.run()
            except InputError as error:
                told.append(error.message)

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        begun.wait()
        session.close()
        session.close()
        for thread in threads:
            thread.join()
        assert len(told) == 4
        assert all("closed" in message for message in told)
        del bound
        run.__defaults__ = None
        assert cuda.closed
        assert not cuda.left_over()


def test_where_one_more_context_finds_no_room_the_others_do_it_all(plan: Path, make_cuda: Any) -> None:
    cuda = make_cuda(limit=256 + 128 + 100)
    with Session(plan, device=lambda: cuda, contexts=4, graphs=0) as session:
        session.run(x=rows(4))
        results = []
        threads = [threading.Thread(target=lambda: results.append(session.run(x=rows(4))["y"])) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 6
        assert len(cuda.streams) == 1
    assert not cuda.left_over()


@pytest.mark.parametrize("method", ["h2d", "sync", "launch", "begin_capture", "end_capture", "alloc", "enqueue"])
def test_ctrl_c_in_a_run_leaves_the_session_as_it_was(
    plan: Path, make_cuda: Any, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    cuda = make_cuda()
    with Session(plan, device=lambda: cuda) as session:
        for turn in range(3):
            real = getattr(cuda, method)

            def interrupted(*args: Any, real: Any = real, **kwargs: Any) -> Any:
                monkeypatch.setattr(cuda, method, real)
                real(*args, **kwargs)
                raise KeyboardInterrupt

            monkeypatch.setattr(cuda, method, interrupted)
            try:
                for _ in range(4):
                    session.run(x=rows(turn + 1))
            except KeyboardInterrupt:
                pass
            monkeypatch.setattr(cuda, method, real)
            np.testing.assert_array_equal(session.run(x=rows(3))["y"], rows(3, 3))
    assert cuda.closed
