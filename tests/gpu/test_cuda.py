"""Memory, streams, events, graphs and threads on a real GPU, by each package that reaches it."""

from __future__ import annotations

import importlib
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mmtrt.errors import MachineError
from mmtrt.runtimes.cuda import Cuda, GpuInfo, gpus
from mmtrt.runtimes.cuda.buffers import Buffer

pytestmark = pytest.mark.gpu

NBYTES = 1 << 20


@pytest.fixture(params=["core", "pycuda"])
def cuda(request: pytest.FixtureRequest, gpu: GpuInfo) -> Iterator[Cuda]:
    module = importlib.import_module(f"mmtrt.runtimes.cuda.{request.param}")
    try:
        opened: Cuda = module.open_device(0, gpus()[0])
    except ImportError as error:
        pytest.skip(str(error))
    yield opened
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened.close()


class Things:
    """A stream, memory on both sides and events, all given back at the end."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self.stream = cuda.create_stream()
        self.first, self.second = cuda.alloc(NBYTES), cuda.alloc(NBYTES)
        self.source, self.target = cuda.alloc_host(NBYTES), cuda.alloc_host(NBYTES)
        self.start, self.stop = cuda.create_event(), cuda.create_event()

    def __enter__(self) -> Things:  # noqa: PYI034
        return self

    def __exit__(self, *exc: object) -> None:
        self._cuda.sync(self.stream)
        for event in (self.start, self.stop):
            self._cuda.destroy_event(event)
        for buffer in (self.source, self.target):
            self._cuda.free_host(buffer)
        for pointer in (self.first, self.second):
            self._cuda.free(pointer)
        self._cuda.destroy_stream(self.stream)

    def go_round(self) -> None:
        """Copy to the device, within it and back."""
        self._cuda.h2d(self.first, self.source, self.stream)
        self._cuda.d2d(self.second, self.first, NBYTES, self.stream)
        self._cuda.d2h(self.target, self.second, self.stream)


def random_bytes(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, NBYTES, dtype=np.uint8)


def test_bytes_come_back_and_events_time_the_way(cuda: Cuda) -> None:
    with Things(cuda) as things:
        things.source[:] = random_bytes(0)
        cuda.record(things.start, things.stream)
        things.go_round()
        cuda.record(things.stop, things.stream)
        cuda.sync_event(things.stop)
        assert cuda.passed(things.stop)
        assert cuda.elapsed_ms(things.start, things.stop) > 0
        np.testing.assert_array_equal(things.target, random_bytes(0))


def test_a_graph_copies_what_lies_there_at_its_launch(cuda: Cuda) -> None:
    with Things(cuda) as things:
        cuda.begin_capture(things.stream)
        things.go_round()
        graph = cuda.end_capture(things.stream)
        for seed in (1, 2):
            things.source[:] = random_bytes(seed)
            cuda.launch(graph, things.stream)
            cuda.sync(things.stream)
            np.testing.assert_array_equal(things.target, random_bytes(seed))
        cuda.destroy_graph(graph)


def test_a_broken_capture_leaves_a_stream_that_can_be_captured(cuda: Cuda) -> None:
    with Things(cuda) as things:
        things.source[:] = random_bytes(3)
        cuda.begin_capture(things.stream)
        with pytest.raises(MachineError):
            cuda.sync(things.stream)
        with pytest.raises(MachineError, match="INVALIDATED"):
            cuda.end_capture(things.stream)
        cuda.begin_capture(things.stream)
        things.go_round()
        graph = cuda.end_capture(things.stream)
        cuda.launch(graph, things.stream)
        cuda.sync(things.stream)
        np.testing.assert_array_equal(things.target, random_bytes(3))
        cuda.destroy_graph(graph)


def test_the_device_reads_mapped_memory_where_it_lies(cuda: Cuda) -> None:
    mapped = cuda.alloc_host(NBYTES, mapped=True)
    with Things(cuda) as things:
        mapped[:] = random_bytes(4)
        cuda.d2h(things.target, cuda.device_pointer(mapped), things.stream)
        cuda.sync(things.stream)
        np.testing.assert_array_equal(things.target, random_bytes(4))
    cuda.free_host(mapped)


def test_too_much_memory_says_how_much_is_free(cuda: Cuda) -> None:
    with pytest.raises(MachineError, match=r"OUT_OF_MEMORY.*bytes are free"):
        cuda.alloc(1 << 50)
    assert 0 < cuda.free_bytes() <= cuda.total_bytes()


def test_threads_work_at_once_and_leave_nothing(cuda: Cuda) -> None:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            cuda.activate()
            for turn in range(25):
                with Things(cuda) as things:
                    things.source[:] = wanted = random_bytes(100 * seed + turn)
                    cuda.begin_capture(things.stream)
                    things.go_round()
                    graph = cuda.end_capture(things.stream)
                    cuda.launch(graph, things.stream)
                    cuda.sync(things.stream)
                    np.testing.assert_array_equal(things.target, wanted)
                    cuda.destroy_graph(graph)
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    def rounds() -> None:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    rounds()
    # The driver keeps what the first graphs and streams made it load.
    free = cuda.free_bytes()
    rounds()
    assert failures == []
    assert cuda.free_bytes() >= free - (8 << 20)


def test_a_buffer_takes_arrays_of_any_strides_there_and_back(cuda: Cuda) -> None:
    buffer, stream = Buffer(cuda), cuda.create_stream()
    for array in (np.arange(24.0).reshape(2, 3, 4).T, np.ones((3, 0), np.float16), np.arange(10)[::-2]):
        buffer.write(array)
        buffer.upload(stream)
        buffer.download(stream)
        cuda.sync(stream)
        np.testing.assert_array_equal(buffer.read(array.dtype, array.shape), array)
    buffer.free()
    cuda.destroy_stream(stream)
