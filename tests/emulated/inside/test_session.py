"""Sessions on the emulated GPU: the real cuda-core, and engines that ONNX Runtime runs in stream order."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulated_gpu import Emulated, Live
from sessions import feeds, same

from mmtrt import Session
from mmtrt.errors import InputError, MmtrtError
from mmtrt.runtimes import dlpack
from mmtrt.runtimes.cuda import gpu, open_cuda, pycuda
from mmtrt.runtimes.tensorrt import TensorRTRunner

CALLS = ["cuMemAlloc", "cuMemcpyAsync", "cuStreamSynchronize", "cuGraphLaunch", "cuStreamEndCapture"]


@pytest.fixture(autouse=True)
def nothing_stays(emulated: Emulated) -> Iterator[None]:
    before = emulated.live
    yield
    after = emulated.live
    assert after == before


def test_it_says_what_the_model_says_with_and_without_a_graph(engine: Path, model: Session) -> None:
    with Session(engine) as session:
        assert session.precision == "emulated"
        assert session.inputs == model.inputs
        for turn in range(4):
            for batch, text in ((1, 2), (2, 5), (8, 8)):
                given = feeds(batch, text, turn)
                assert same(session.run(given), model.run(given))
        assert session.notes == ()


def test_a_bound_run_is_one_launch(engine: Path, model: Session, emulated: Emulated) -> None:
    given = feeds()
    with Session(engine) as session, session.bind({name: array.shape for name, array in given.items()}) as bound:
        assert bound.cuda_graph
        for turn in range(3):
            for name, array in feeds(seed=turn).items():
                bound.inputs[name][...] = array
            before = emulated.calls("cuGraphLaunch"), emulated.calls("cuMemcpyAsync")
            assert same(bound.run(), model.run(feeds(seed=turn)))
            assert (emulated.calls("cuGraphLaunch"), emulated.calls("cuMemcpyAsync")) == (before[0] + 1, before[1])
        del bound


def test_four_threads_with_changing_shapes_say_what_a_fresh_session_says(
    engine: Path, model: Session, emulated: Emulated
) -> None:
    shapes = [(1, 2), (2, 5), (3, 3), (8, 8), (5, 2)]
    with Session(engine) as fresh:
        wanted = {shape: fresh.run(feeds(*shape)) for shape in shapes}
    wrong: list[object] = []

    def run(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for turn in range(75):
            shape = shapes[rng.integers(len(shapes))]
            if not same(session.run(feeds(*shape)), wanted[shape]):
                wrong.append((seed, turn))

    live: list[Live] = []
    with Session(engine, contexts=2, graphs=5) as session:
        for _ in range(2):
            threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            live.append(emulated.live)
    assert wrong == []
    assert live[0].streams == live[1].streams == 2
    assert live[1].device_bytes == live[0].device_bytes
    assert live[1].pinned_bytes == live[0].pinned_bytes
    assert live[1].executable_graphs <= 10


class OnDevice:
    """A tensor of another package's on the emulated GPU; it notes which stream was told to wait."""

    def __init__(self, array: Any, *, offset: int = 0, device: int = 0) -> None:
        self.cuda = open_cuda()
        self.array = np.ascontiguousarray(array)
        self.offset, self.device = offset, device
        self.memory = self.cuda.alloc(self.array.nbytes + offset)
        self.streams: list[object] = []
        self.given = 0
        self.copy(to_device=True)

    def copy(self, *, to_device: bool) -> None:
        stream, host = self.cuda.create_stream(), self.cuda.alloc_host(self.array.nbytes)
        host[:] = self.array.reshape(-1).view(np.uint8)
        copying = self.cuda.h2d if to_device else (lambda pointer, host, stream: self.cuda.d2h(host, pointer, stream))
        copying(self.memory + self.offset, host, stream)
        self.cuda.sync(stream)
        self.array = host.copy().view(self.array.dtype).reshape(self.array.shape)
        self.cuda.free_host(host)
        self.cuda.destroy_stream(stream)

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self.device

    def __dlpack__(self, *, stream: object = None, **_: object) -> Any:
        self.streams.append(stream)
        self.given += 1
        return dlpack.capsule_of(
            pointer=self.memory + self.offset,
            shape=self.array.shape,
            dtype=str(self.array.dtype),
            device=(dlpack.CUDA, self.device),
            done=self.back,
        )

    def back(self) -> None:
        self.given -= 1

    def free(self) -> None:
        self.cuda.free(self.memory)
        self.cuda.close()


@pytest.mark.parametrize("offset", [0, 64])
def test_tensors_on_the_gpu_are_used_where_they_lie(
    engine: Path, model: Session, emulated: Emulated, offset: int
) -> None:
    given = feeds()
    wanted = model.run(given)
    held = {name: OnDevice(array, offset=offset) for name, array in given.items()}
    out = {name: OnDevice(np.zeros_like(array), offset=offset) for name, array in wanted.items()}
    with Session(engine) as session:
        for _ in range(3):
            before = emulated.calls("cuMemcpyHtoDAsync"), emulated.calls("cuMemcpyDtoHAsync")
            told = session.run(held, out=out)
            assert (emulated.calls("cuMemcpyHtoDAsync"), emulated.calls("cuMemcpyDtoHAsync")) == before
            assert told == out
            for name, tensor in out.items():
                tensor.copy(to_device=False)
                assert np.allclose(tensor.array, wanted[name], atol=1e-5)
        # Each was told of the lane's stream, and is its owner's again.
        assert len({stream for tensor in held.values() for stream in tensor.streams}) == 1
        assert all(tensor.given == 0 for tensor in [*held.values(), *out.values()])
        assert same(session.run({**given, "image": held["image"]}), wanted)
    for tensor in [*held.values(), *out.values()]:
        tensor.free()


def test_outputs_may_go_where_an_input_lies_and_not_where_another_output_does(
    engine: Path, model: Session, emulated: Emulated
) -> None:
    given = feeds()
    wanted = model.run(given)
    image = OnDevice(given["image"])
    out = {name: OnDevice(np.zeros_like(array)) for name, array in wanted.items()}
    own = [tensor.memory for tensor in out.values()]
    with Session(engine) as session:
        out["answer"].memory = image.memory
        before = emulated.calls("cuMemcpyDtoDAsync")
        session.run({**given, "image": image}, out=out)
        # The engine wrote elsewhere, and that was copied when it had read its inputs.
        assert emulated.calls("cuMemcpyDtoDAsync") == before + 1
        for name, tensor in out.items():
            tensor.copy(to_device=False)
            assert np.allclose(tensor.array, wanted[name], atol=1e-5)
        out["answer"].memory = out["match"].memory
        with pytest.raises(InputError, match="'answer' and 'match' is the same, or overlaps"):
            session.run(given, out=out)
    for tensor, memory in zip(out.values(), own, strict=True):
        tensor.memory = memory
        tensor.free()
    image.free()


def test_what_stays_on_the_gpu_feeds_the_next_and_outlives_the_session(engine: Path, model: Session) -> None:
    given = feeds()
    with Session(engine) as session:
        told = session.run(given, outputs="dlpack")
        assert dlpack.device_of(told["answer"], "it") == (dlpack.CUDA, 0)
    with open_device() as cuda:
        taken = dlpack.take(told["answer"], "it")
        del told
        host = cuda.alloc_host(taken.nbytes)
        stream = cuda.create_stream()
        cuda.d2h(host, taken.pointer, stream)
        cuda.sync(stream)
        assert np.allclose(host.view(np.float32).reshape(taken.shape), model.run(given)["answer"], atol=1e-5)
        taken.release()
        del taken
        cuda.free_host(host)
        cuda.destroy_stream(stream)


@contextmanager
def open_device() -> Iterator[Any]:
    cuda = open_cuda()
    yield cuda
    cuda.close()


def test_wrong_tensors_are_named(engine: Path) -> None:
    given = feeds()
    elsewhere = OnDevice(given["image"], device=1)
    capsule = dlpack.capsule_of(pointer=1, shape=(1,), dtype="float32", device=(dlpack.CPU, 0), done=lambda: None)
    dlpack.take(capsule, "it").release()
    freed = OnDevice(given["image"])
    memory, freed.memory = freed.memory, 0
    gaps = np.asfortranarray(given["image"])
    with Session(engine) as session:
        wanted = session.run(given)
        for change, words in (
            ({"image": elsewhere}, "GPU 1, and the engine on GPU 0"),
            ({"image": freed}, "it was freed"),
            ({"image": given["image"][:, :1]}, "on axis 1"),
            ({"image": given["image"].astype(np.float64)}, "float64"),
            ({"image": given["image"].tolist()}, "no tensor"),
            ({"ids": np.ones((2, 99), np.int64), "mask": np.ones((2, 99), np.int64)}, "axis 1, the engine takes"),
        ):
            with pytest.raises(InputError, match=words):
                session.run({**given, **change})
        assert same(session.run({**given, "image": gaps}), wanted)
    freed.memory = memory
    freed.free()
    elsewhere.free()


@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_fails_leaves_a_session_that_works(
    engine: Path, model: Session, emulated: Emulated, call: str
) -> None:
    given = feeds()
    with Session(engine) as session:
        for nth in range(1, 6):
            emulated.fail(call, 2, nth=nth)
            for _ in range(4):
                try:
                    session.run(given)
                except MmtrtError:
                    break
            emulated.clear_faults()
            assert same(session.run(given), model.run(given))


def test_parts_of_a_run_are_timed(engine: Path) -> None:
    with TensorRTRunner(engine) as runner:
        for graph in (False, True):
            for transfers in (False, True):
                with runner.timed(feeds(), cuda_graph=graph, transfers=transfers) as run:
                    timing = run.once()
                    assert (run.cuda_graph, run.transfers) == (graph, transfers)
                    assert timing.compute_ms is not None
                    assert (timing.h2d_ms is None, timing.d2h_ms is None) == (not transfers, not transfers)
                    assert run.burst(5) > 0
        layers = runner.profiled(feeds())
    assert len(layers) > 5
    assert all(name and ms >= 0 for name, ms in layers)


def test_an_engine_tells_the_memory_that_it_holds(engine: Path, emulated: Emulated) -> None:
    before = emulated.live.device_bytes
    with TensorRTRunner(engine) as runner, TensorRTRunner(engine) as other:
        for turn in range(3):
            runner.infer(feeds(8, 8, turn))
        told = runner.device_bytes, other.device_bytes
        assert None not in told
        # One that ran holds its buffers too, and neither counts the other's.
        assert sum(told) == emulated.live.device_bytes - before
        assert told[0] > told[1] > 0


def test_by_pycuda_a_session_runs_as_well(engine: Path, model: Session) -> None:
    found = gpu()
    assert found is not None
    with Session(engine, device=lambda: pycuda.open_device(0, found)) as session:
        for turn in range(4):
            assert same(session.run(feeds(seed=turn)), model.run(feeds(seed=turn)))
        assert session.notes == ()
        with session.bind(feeds()) as bound:
            assert bound.cuda_graph
            assert same(bound.run(), model.run(feeds()))
        del bound


def test_two_sessions_share_the_gpu(engine: Path, model: Session) -> None:
    with Session(engine) as one, Session(engine) as two:
        for turn in range(3):
            given = feeds(seed=turn)
            assert same(two.run(given), one.run(given))
        two.close()
        assert same(one.run(feeds()), model.run(feeds()))
