"""One body over each implementation of `Cuda`, on the software driver: what it does, what it says, what it leaves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cuda_devices import Copies, opener
from emulated_gpu import Emulated

from mmtrt.errors import MachineError
from mmtrt.runtimes.cuda import _IMPLEMENTATIONS, Cuda


@pytest.fixture(params=_IMPLEMENTATIONS)
def open_device(request: pytest.FixtureRequest) -> Callable[[], Cuda]:
    return opener(request.param)


@pytest.fixture
def cuda(open_device: Callable[[], Cuda], emulated: Emulated) -> Iterator[Cuda]:
    """An open device, after which everything is as it was before."""
    before = emulated.live
    device = open_device()
    yield device
    emulated.clear_faults()
    emulated.mend()
    device.close()
    assert emulated.live == before


@pytest.fixture
def stream(cuda: Cuda) -> Iterator[int]:
    made = cuda.create_stream()
    yield made
    cuda.destroy_stream(made)


@pytest.fixture
def copies(cuda: Cuda) -> Iterator[Copies]:
    made = Copies(cuda)
    yield made
    made.free()


def test_it_fulfils_the_protocol_and_names_the_device(cuda: Cuda) -> None:
    assert isinstance(cuda, Cuda)
    assert cuda.device == 0
    assert "Emulated" in cuda.info.name
    assert 0 < cuda.free_bytes() <= cuda.total_bytes()


@pytest.mark.parametrize("nbytes", [1, 4097, 1 << 20])
def test_bytes_come_back_as_they_went(cuda: Cuda, stream: int, nbytes: int) -> None:
    one, two = Copies(cuda, nbytes), Copies(cuda, nbytes)
    one.given[:] = np.random.default_rng(nbytes).integers(0, 256, nbytes)
    cuda.h2d(one.pointer, one.given, stream)
    cuda.d2d(two.pointer, one.pointer, nbytes, stream)
    cuda.d2h(two.got, two.pointer, stream)
    cuda.sync(stream)
    assert np.array_equal(two.got, one.given)
    one.free()
    two.free()


def test_a_slice_is_copied_alone(cuda: Cuda, stream: int, copies: Copies) -> None:
    copies.given[:] = 5
    cuda.h2d(copies.pointer, copies.given, stream)
    cuda.d2h(copies.got[:10], copies.pointer + 3, stream)
    cuda.sync(stream)
    assert (copies.got[:10] == 5).all()
    assert (copies.got[10:] == 0).all()


def test_copies_wait_for_the_stream_and_not_the_host(
    cuda: Cuda, stream: int, copies: Copies, emulated: Emulated
) -> None:
    copies.given[:] = 1
    emulated.spin(stream, 150)
    copies.enqueue(stream)
    assert (copies.got == 0).all()
    # What is in the host's memory when the copy's turn comes is copied.
    copies.given[:] = 2
    cuda.sync(stream)
    assert (copies.got == 2).all()


def test_an_event_orders_two_streams(cuda: Cuda, stream: int, copies: Copies, emulated: Emulated) -> None:
    other, event = cuda.create_stream(), cuda.create_event(timing=False)
    copies.given[:] = 7
    emulated.spin(stream, 100)
    cuda.h2d(copies.pointer, copies.given, stream)
    cuda.record(event, stream)
    cuda.wait(other, event)
    cuda.d2h(copies.got, copies.pointer, other)
    assert not cuda.passed(event)
    cuda.sync(other)
    assert cuda.passed(event)
    assert (copies.got == 7).all()
    cuda.destroy_event(event)
    cuda.destroy_stream(other)


def test_events_tell_the_time_of_what_lies_between(cuda: Cuda, stream: int, emulated: Emulated) -> None:
    start, stop, bare = cuda.create_event(), cuda.create_event(), cuda.create_event(timing=False)
    cuda.record(start, stream)
    emulated.spin(stream, 100)
    cuda.record(stop, stream)
    with pytest.raises(MachineError, match="elapsed_ms"):
        cuda.elapsed_ms(start, stop)
    begin = time.perf_counter()
    cuda.sync_event(stop)
    within = (time.perf_counter() - begin) * 1e3
    assert cuda.elapsed_ms(start, stop) >= 100
    assert within > 0
    cuda.record(bare, stream)
    cuda.sync(stream)
    with pytest.raises(MachineError, match="elapsed_ms"):
        cuda.elapsed_ms(start, bare)
    for event in (start, stop, bare):
        cuda.destroy_event(event)


def test_a_graph_does_its_work_at_each_launch_and_only_then(cuda: Cuda, stream: int, copies: Copies) -> None:
    copies.given[:] = 1
    cuda.begin_capture(stream)
    copies.enqueue(stream)
    graph = cuda.end_capture(stream)
    cuda.sync(stream)
    assert (copies.got == 0).all()
    for value in (1, 2, 3):
        copies.given[:] = value
        cuda.launch(graph, stream)
        cuda.sync(stream)
        assert (copies.got == value).all()
    cuda.destroy_graph(graph)
    with pytest.raises(MachineError, match="launch"):
        cuda.launch(graph, stream)


def test_a_graph_may_hold_two_streams(cuda: Cuda, stream: int, copies: Copies) -> None:
    other = cuda.create_stream()
    fork, join = cuda.create_event(timing=False), cuda.create_event(timing=False)
    cuda.begin_capture(stream)
    cuda.h2d(copies.pointer, copies.given, stream)
    cuda.record(fork, stream)
    cuda.wait(other, fork)
    cuda.d2h(copies.got, copies.pointer, other)
    cuda.record(join, other)
    cuda.wait(stream, join)
    graph = cuda.end_capture(stream)
    copies.given[:] = 4
    cuda.launch(graph, stream)
    cuda.sync(stream)
    assert (copies.got == 4).all()
    cuda.sync(other)
    cuda.destroy_graph(graph)
    cuda.destroy_stream(other)
    cuda.destroy_event(fork)
    cuda.destroy_event(join)


@pytest.mark.parametrize("spoil", ["alloc", "sync", "alloc_host"])
def test_a_spoilt_capture_is_told_and_the_stream_works_again(
    cuda: Cuda, stream: int, copies: Copies, spoil: str
) -> None:
    cuda.begin_capture(stream)
    copies.enqueue(stream)
    with pytest.raises(MachineError, match=r"(?i)captur"):
        getattr(cuda, spoil)(stream if spoil == "sync" else 64)
    with pytest.raises(MachineError, match=r"CAPTURE_INVALIDATED|during capture"):
        cuda.end_capture(stream)
    copies.given[:] = 6
    copies.enqueue(stream)
    cuda.sync(stream)
    assert (copies.got == 6).all()


def test_other_threads_go_on_while_one_captures(cuda: Cuda, stream: int, copies: Copies) -> None:
    def elsewhere() -> None:
        cuda.activate()
        mine, own = Copies(cuda), cuda.create_stream()
        mine.given[:] = 8
        mine.enqueue(own)
        cuda.sync(own)
        assert (mine.got == 8).all()
        mine.free()
        cuda.destroy_stream(own)

    cuda.begin_capture(stream)
    copies.enqueue(stream)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(elsewhere).result()
    cuda.destroy_graph(cuda.end_capture(stream))


def test_threads_with_streams_of_their_own_do_not_meet(cuda: Cuda) -> None:
    together = threading.Barrier(4, timeout=10)

    def work(number: int) -> None:
        cuda.activate()
        mine, own = Copies(cuda, 1000 + number), cuda.create_stream()
        event = cuda.create_event()
        together.wait()
        for turn in range(25):
            mine.given[:] = (number * 50 + turn) % 256
            mine.enqueue(own)
            cuda.record(event, own)
            cuda.sync_event(event)
            assert np.array_equal(mine.got, mine.given)
        cuda.destroy_event(event)
        cuda.destroy_stream(own)
        mine.free()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work, number) for number in range(4)]:
            done.result()


def test_too_much_memory_is_refused_with_what_there_is(cuda: Cuda) -> None:
    with pytest.raises(MachineError, match="CUDA_ERROR_OUT_OF_MEMORY") as caught:
        cuda.alloc(cuda.total_bytes() + 1)
    assert f"{cuda.total_bytes():,}" in str(caught.value)
    with pytest.raises(MachineError, match="OUT_OF_MEMORY"):
        cuda.alloc_host(1 << 40)
    cuda.free(cuda.alloc(16))


def test_what_was_given_back_is_unknown(cuda: Cuda, copies: Copies) -> None:
    stream, event, pointer = cuda.create_stream(), cuda.create_event(), cuda.alloc(8)
    cuda.destroy_stream(stream)
    cuda.destroy_event(event)
    cuda.free(pointer)
    for call in (
        lambda: cuda.destroy_stream(stream),
        lambda: cuda.destroy_event(event),
        lambda: cuda.free(pointer),
        lambda: cuda.sync(stream),
        lambda: cuda.record(event, stream),
        lambda: copies.enqueue(stream),
        lambda: cuda.begin_capture(stream),
    ):
        with pytest.raises(MachineError):
            call()


def test_freed_memory_is_no_target(cuda: Cuda, stream: int, copies: Copies) -> None:
    pointer = cuda.alloc(64)
    cuda.free(pointer)
    with pytest.raises(MachineError):
        cuda.h2d(pointer, copies.given, stream)
    with pytest.raises(MachineError):
        cuda.h2d(copies.pointer + 1, copies.given, stream)


def test_freed_memory_inside_a_graph_breaks_the_context(cuda: Cuda, stream: int, emulated: Emulated) -> None:
    gone = Copies(cuda)
    cuda.begin_capture(stream)
    gone.enqueue(stream)
    graph = cuda.end_capture(stream)
    gone.free()
    cuda.launch(graph, stream)
    with pytest.raises(MachineError, match="ILLEGAL_ADDRESS") as caught:
        cuda.sync(stream)
    assert "lost" in (caught.value.fix or "")
    with pytest.raises(MachineError, match="ILLEGAL_ADDRESS"):
        cuda.alloc(8)
    emulated.mend()
    cuda.destroy_graph(graph)


def test_a_broken_context_can_be_closed_in_silence(open_device: Callable[[], Cuda], emulated: Emulated) -> None:
    device = open_device()
    stream, pointer = device.create_stream(), device.alloc(8)
    emulated.break_at(stream)
    with pytest.raises(MachineError, match="ILLEGAL_ADDRESS"):
        device.sync(stream)
    device.free(pointer)
    device.destroy_stream(stream)
    device.close()
    emulated.mend()


def test_mapped_memory_is_seen_by_the_device_where_it_is_shared(cuda: Cuda, stream: int, emulated: Emulated) -> None:
    buffer = cuda.alloc_host(64, mapped=True)
    copies = Copies(cuda)
    pointer = cuda.device_pointer(buffer)
    assert emulated.reach(pointer, 64)
    buffer[:] = 3
    cuda.d2d(copies.pointer, pointer, 64, stream)
    cuda.d2h(copies.got, copies.pointer, stream)
    cuda.sync(stream)
    assert (copies.got == 3).all()
    with pytest.raises(MachineError):
        cuda.device_pointer(copies.got[1:])
    copies.free()
    cuda.free_host(buffer)


def test_the_device_says_whether_it_shares_memory(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    assert cuda.shares_memory == (os.environ.get("EMULATED_INTEGRATED") == "1")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_close_gives_back_what_was_forgotten(open_device: Callable[[], Cuda], emulated: Emulated) -> None:
    before = emulated.live
    device = open_device()
    stream = device.create_stream()
    device.create_event()
    forgotten = Copies(device)
    device.begin_capture(stream)
    forgotten.enqueue(stream)
    device.end_capture(stream)
    assert emulated.live != before
    device.close()
    device.close()
    assert emulated.live == before
    with pytest.raises(MachineError, match="closed"):
        device.alloc(8)
