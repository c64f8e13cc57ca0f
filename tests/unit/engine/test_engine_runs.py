"""Times, layers, graphs that are refused, RTX's cache and memory of callers, over a CUDA in memory."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mmtrt import Session
from mmtrt.runtimes import dlpack
from mmtrt.runtimes import given as given_tensors
from mmtrt.runtimes.tensorrt import TensorRTRunner
from mmtrt.runtimes.timing import Timeable

pytestmark = pytest.mark.usefixtures("fakes", "orin")


@pytest.fixture
def cuda(fakes: None) -> Any:
    import fake_cuda

    return fake_cuda.FakeCuda()


@pytest.fixture
def plan(tmp_path: Path) -> Any:
    def write(**changes: Any) -> Path:
        graph = {"inputs": {"x": {"shape": [-1, 4]}}, "outputs": {"y": {"shape": [-1, 4]}}, **changes}
        path = tmp_path / "model.engine"
        path.write_bytes(b"ftrt".ljust(64, b"\0") + json.dumps({"graph": graph}).encode())
        return path

    return write


def rows(batch: int, value: float = 1.5) -> Any:
    return np.full((batch, 4), value, np.float32)


@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("transfers", [False, True])
def test_each_part_lies_between_two_events(plan: Any, cuda: Any, cuda_graph: bool, transfers: bool) -> None:
    with TensorRTRunner(plan(), device=lambda: cuda) as runner:
        assert isinstance(runner, Timeable)
        with runner.timed({"x": rows(2)}, cuda_graph=cuda_graph, transfers=transfers) as run:
            assert (run.clock, run.cuda_graph, run.transfers) == ("cuda_event", cuda_graph, transfers)
            cuda.calls.clear()
            timing = run.once()
            # The clock of the CUDA in memory: a copy takes 0.25 ms, the engine 1 ms.
            wanted = (1.5, 0.25, 1.0, 0.25) if transfers else (1.0, None, 1.0, None)
            assert (timing.latency_ms, timing.h2d_ms, timing.compute_ms, timing.d2h_ms) == wanted
            assert 0 < (timing.enqueue_ms or 0) <= timing.host_ms
            assert (cuda.calls["launch"], cuda.calls["h2d"]) == (int(cuda_graph), int(transfers))
            for queries in (1, 2, 5):
                cuda.calls.clear()
                assert run.burst(queries) > 0
                # One query is always enqueued ahead, so each but the last two is waited for by itself.
                assert cuda.calls["sync"] == max(0, queries - 2) + 2
    assert cuda.closed
    assert not cuda.left_over()


def test_two_engines_never_run_at_once_in_a_burst(plan: Any, cuda: Any) -> None:
    with (
        TensorRTRunner(plan(), device=lambda: cuda) as runner,
        runner.timed({"x": rows(2)}, cuda_graph=True, transfers=True) as run,
    ):
        cuda.calls.clear()
        run.burst(4)
        assert cuda.calls["wait"] == 3


def test_where_a_graph_is_refused_the_run_says_that_it_has_none(plan: Any, cuda: Any) -> None:
    with (
        TensorRTRunner(plan(control_flow=1), device=lambda: cuda) as runner,
        runner.timed({"x": rows(2)}, cuda_graph=True, transfers=True) as run,
    ):
        assert not run.cuda_graph
        assert run.once().compute_ms == 1.0


@pytest.mark.parametrize(("kind", "change"), [("10", "control_flow"), ("rtx", "control_flow"), ("rtx", "uncapturable")])
def test_where_graphs_are_refused_results_are_right_and_it_is_noted_once(
    plan: Any, cuda: Any, monkeypatch: pytest.MonkeyPatch, kind: str, change: str
) -> None:
    monkeypatch.setenv("FAKE_TENSORRT", kind)
    with Session(plan(**{change: 1}), device=lambda: cuda) as session:
        for turn in range(8):
            np.testing.assert_array_equal(session.run(x=rows(1 + turn % 2, turn))["y"], rows(1 + turn % 2, 2 * turn))
        (note,) = session.notes
        assert "runs without CUDA graphs" in note
        assert not cuda.graphs
        assert cuda.calls["begin_capture"] <= 1
        bound = session.bind(x=rows(2))
        assert not bound.cuda_graph
        np.testing.assert_array_equal(bound.run()["y"], rows(2, 3))
        del bound
    assert cuda.closed
    assert not cuda.left_over()


def test_layers_are_told_by_tensorrt(plan: Any, cuda: Any) -> None:
    with TensorRTRunner(plan(), device=lambda: cuda) as runner:
        assert runner.profiled({"x": rows(2)}) == (("double", 0.75), ("copy", 0.25))
        np.testing.assert_array_equal(runner.infer({"x": rows(2)})["y"], rows(2, 3))


def test_what_rtx_compiled_is_kept_and_a_broken_file_is_noted(
    plan: Any, cuda: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import fake_cuda

    monkeypatch.setenv("FAKE_TENSORRT", "rtx")
    monkeypatch.setenv("MMTRT_CACHE_DIR", str(tmp_path / "cache"))
    path = plan()

    def run() -> tuple[str, ...]:
        device = fake_cuda.FakeCuda()
        with Session(path, device=lambda: device) as session:
            config = sys.modules["tensorrt"].Context.last.config
            assert config.cuda_graph_strategy == "disabled"
            assert config.dynamic_shapes_kernel_specialization_strategy == "eager"
            known.append(list(config.cache.words))
            np.testing.assert_array_equal(session.run(x=rows(2))["y"], rows(2, 3))
        return session.notes

    known: list[list[bytes]] = []
    assert run() == run() == ()
    (file,) = (tmp_path / "cache" / "runtime").iterdir()
    assert known == [[], [b"{'x':(2,4)}"]]
    file.write_bytes(b"torn")
    assert "is broken or of another driver" in run()[0]
    assert known[-1] == []
    assert run() == ()
    file.unlink()
    file.mkdir()
    assert "can't be read" in run()[0]


@pytest.mark.parametrize("writable", [True, False])
def test_what_a_deploy_compiled_is_not_compiled_again(
    plan: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, writable: bool
) -> None:
    import fake_cuda

    from mmtrt.runtimes.engines import runtime_cache
    from mmtrt.runtimes.engines.loaded import LoadedEngine

    deployed = tmp_path / "DIR" / "cache"
    deployed.mkdir(parents=True)
    monkeypatch.setenv("FAKE_TENSORRT", "rtx")
    path = plan()

    def run(size: int, cache_folder: Path | None) -> list[bytes]:
        loaded = LoadedEngine(path, device=fake_cuda.FakeCuda, cache_folder=cache_folder)
        known = list(sys.modules["tensorrt"].Context.last.config.cache.words)
        loaded.run({"x": rows(size)})
        loaded.close()
        assert loaded.notes == ()
        return known

    # The deploy's own run has its cache by the environment.
    monkeypatch.setenv("MMTRT_CACHE_DIR", str(deployed))
    assert run(2, None) == []
    monkeypatch.setenv("MMTRT_CACHE_DIR", str(tmp_path / "own"))
    monkeypatch.setattr(runtime_cache.os, "access", lambda *_: writable)
    assert run(2, deployed) == [b"{'x':(2,4)}"]
    run(3, deployed)
    assert (tmp_path / "own").exists() != writable
    assert b"{'x':(3,4)}" in run(2, deployed)


def test_a_user_without_a_home_runs_without_a_cache(plan: Any, cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("FAKE_TENSORRT", "rtx")
    monkeypatch.delenv("MMTRT_CACHE_DIR", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with Session(plan(), device=lambda: cuda) as session:
        np.testing.assert_array_equal(session.run(x=rows(2))["y"], rows(2, 3))


class OnDevice:
    def __init__(self, cuda: Any, array: Any, device: int = 0) -> None:
        self.array, self.device = array, device
        self.pointer = cuda.adopt(array)
        self.streams: list[Any] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self.device

    def __dlpack__(self, *, stream: Any = None) -> Any:
        # A package from before DLPack 1.0: it knows no versions.
        self.streams.append(stream)
        return dlpack.capsule_of(
            pointer=self.pointer,
            shape=self.array.shape,
            dtype=str(self.array.dtype),
            device=(dlpack.CUDA, self.device),
            done=lambda: None,
            versioned=False,
        )


def test_memory_of_the_callers_is_used_and_graphs_are_kept_by_address(plan: Any, cuda: Any) -> None:
    with Session(plan(), device=lambda: cuda) as session:
        pairs = [(OnDevice(cuda, rows(2, value)), OnDevice(cuda, rows(2, 0))) for value in (1, 2)]
        cuda.calls.clear()
        for turn in range(4):
            for x, y in pairs:
                x.array += 1
                assert session.run(x=x, out={"y": y}) == {"y": y}
                np.testing.assert_array_equal(y.array, x.array * 2)
            assert cuda.calls["launch"] == 2 * max(0, turn - 1)
        assert (cuda.calls["h2d"], cuda.calls["d2h"]) == (0, 0)
        assert {stream for x, _ in pairs for stream in x.streams} == set(cuda.streams)


def test_what_a_run_leaves_on_the_gpu_is_freed_when_nobody_holds_it(plan: Any, cuda: Any) -> None:
    with Session(plan(), device=lambda: cuda) as session:
        held = session.run(x=rows(2), outputs="dlpack")["y"]
        np.testing.assert_array_equal(session.run(x=held)["y"], rows(2, 6))
        before = len(cuda.memory)
        del held
        session.run(x=rows(2))
        assert len(cuda.memory) == before - 1
        held = session.run(x=rows(2), outputs="dlpack")["y"]
    assert not cuda.closed
    assert len(cuda.memory) == 1
    holder = [held]
    del held
    thread = threading.Thread(target=holder.clear)
    thread.start()
    thread.join()
    assert cuda.closed
    assert not cuda.left_over()


class Torch(ModuleType):
    """As much of PyTorch as a session asks for: tensors on the GPU that `empty` makes and DLPack hands on."""

    float32 = "float32"

    def __init__(self, cuda: Any) -> None:
        super().__init__("torch")
        self.cuda, self.made = cuda, []

    def empty(self, shape: tuple[int, ...], *, dtype: str, device: str) -> Any:
        assert device == "cuda:0"
        self.made.append(self.tensor(np.zeros(shape, dtype)))
        return self.made[-1]

    def tensor(self, array: Any, *, gaps: bool = False) -> Any:
        made = self._kind(self.cuda, array)
        made.torch, made.gaps = self, gaps
        return made

    class _kind(OnDevice):  # noqa: N801 -- its module is what tells that it is PyTorch's
        def contiguous(self) -> Any:
            return self.torch.tensor(self.array.copy()) if self.gaps else self


Torch._kind.__module__ = "torch"


def test_pytorch_tensors_on_the_gpu_give_pytorch_tensors_there(
    plan: Any, cuda: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = Torch(cuda)
    monkeypatch.setitem(sys.modules, "torch", torch)
    with Session(plan(), device=lambda: cuda) as session:
        for gaps in (False, True):
            x = torch.tensor(rows(2), gaps=gaps)
            cuda.calls.clear()
            y = session.run(x=x)["y"]
            assert y is torch.made[-1]
            np.testing.assert_array_equal(y.array, rows(2, 3))
            # Whoever had the memory before is done with it: the lane's stream was told to wait for that.
            assert set(y.streams) == set(cuda.streams)
            assert (cuda.calls["h2d"], cuda.calls["d2h"]) == (0, 0)
            np.testing.assert_array_equal(session.run(x=x, outputs="numpy")["y"], rows(2, 3))
            assert session.run(x=x, out={"y": y}) == {"y": y}


def test_a_tensor_with_gaps_is_copied(plan: Any, cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.arange(16, dtype=np.float32).reshape(4, 4)
    given = OnDevice(cuda, whole)
    taken = dlpack.Taken(
        pointer=given.pointer,
        shape=(2, 4),
        strides=(32, 4),
        dtype="float32",
        device=(dlpack.CUDA, 0),
        read_only=False,
        release=lambda: None,
    )
    monkeypatch.setattr(given_tensors, "take", lambda *_, **__: taken)
    with Session(plan(), device=lambda: cuda) as session:
        np.testing.assert_array_equal(session.run(x=given)["y"], whole[::2] * 2)
    assert not cuda.left_over()


def test_shapes_that_change_at_random_among_too_many_are_soon_not_recorded_any_more(plan: Any, cuda: Any) -> None:
    rng = np.random.default_rng(0)
    with Session(plan(), device=lambda: cuda, graphs=2) as session:
        for _ in range(2):
            before = cuda.calls["end_capture"]
            for _ in range(1000):
                batch = int(rng.integers(1, 5))
                np.testing.assert_array_equal(session.run(x=rows(batch))["y"], rows(batch, 3))
        assert before > 4
        assert cuda.calls["end_capture"] - before < 4
        # One shape that comes again and again has its graph all the same.
        cuda.calls.clear()
        for _ in range(2000):
            session.run(x=rows(3))
        assert cuda.calls["launch"] > 1000
