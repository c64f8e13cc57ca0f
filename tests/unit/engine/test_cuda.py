"""One test body for each implementation of the CUDA contract, over stand-ins for the packages below them."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from mmtrt.errors import MachineError
from mmtrt.runtimes.cuda import Cuda
from mmtrt.runtimes.cuda.library import Library

LIMIT = 1 << 16


def tools() -> Any:
    return importlib.import_module("cuda_stack")


@pytest.fixture
def cuda(stack: Any) -> Any:
    return stack.cuda


# ------------------------------------------------------------------------------------------------- memory


def test_bytes_come_back_from_the_device_once_it_is_waited_for(stack: Any) -> None:
    cuda = stack.cuda
    assert isinstance(cuda, Cuda)
    stream, first, second = cuda.create_stream(), cuda.alloc(16), cuda.alloc(16)
    source, target = tools().filled(cuda, range(16)), tools().filled(cuda, [99] * 16)
    cuda.h2d(first, source[:8], stream)
    cuda.d2d(second, first, 8, stream)
    cuda.d2h(target[:8], second, stream)
    assert target.tolist() == [99] * 16
    cuda.sync(stream)
    assert target.tolist() == [*range(8), *[99] * 8]
    for buffer in (source, target):
        cuda.free_host(buffer)
    for pointer in (first, second):
        cuda.free(pointer)
    cuda.destroy_stream(stream)
    cuda.close()
    assert stack.nothing_left()


def test_too_much_memory_says_how_much_was_asked_and_how_much_is_free(stack: Any) -> None:
    cuda = stack.cuda
    cuda.alloc(1 << 10)
    assert (cuda.free_bytes(), cuda.total_bytes()) == (LIMIT - 1024, LIMIT)
    with pytest.raises(MachineError, match="OUT_OF_MEMORY") as caught:
        cuda.alloc(LIMIT)
    if stack.driver is not None:
        assert "of 65,536 bytes" in caught.value.message
        assert "64,512 of the device's 65,536 bytes are free" in caught.value.message
        assert "smaller shapes" in str(caught.value.fix)


def test_too_little_page_locked_memory_says_how_much_was_asked(stack: Any) -> None:
    stack.fake.fail_host = True
    with pytest.raises(MachineError, match="OUT_OF_MEMORY"):
        stack.cuda.alloc_host(1024)
    assert not stack.fake.host


def test_mapped_memory_is_seen_by_the_device_without_a_copy(cuda: Any) -> None:
    mapped, target = cuda.alloc_host(4, mapped=True), cuda.alloc_host(4)
    mapped[:] = 7
    stream = cuda.create_stream()
    cuda.d2h(target, cuda.device_pointer(mapped), stream)
    cuda.sync(stream)
    assert target.tolist() == [7] * 4
    with pytest.raises(MachineError):
        cuda.device_pointer(target)


@pytest.mark.parametrize("kind", ["core", "pycuda", "in memory"])
def test_it_tells_of_the_device(fakes: None, kind: str) -> None:
    for shares in (False, True):
        cuda = tools().Stack(kind, shares_memory=shares).cuda
        assert cuda.shares_memory is shares
        assert cuda.device == 0
        assert cuda.info.name in {"Orin", "Fake"}
        cuda.close()


# ------------------------------------------------------------------------------------------------- events


def test_events_keep_the_time_and_pass_in_their_turn(cuda: Any) -> None:
    stream, start, stop = cuda.create_stream(), cuda.create_event(), cuda.create_event()
    pointer, source = cuda.alloc(4), tools().filled(cuda, [1] * 4)
    cuda.record(start, stream)
    cuda.h2d(pointer, source, stream)
    cuda.record(stop, stream)
    assert not cuda.passed(stop)
    with pytest.raises(MachineError, match="elapsed_ms failed"):
        cuda.elapsed_ms(start, stop)
    cuda.sync_event(stop)
    assert cuda.passed(stop)
    assert cuda.elapsed_ms(start, stop) == pytest.approx(0.25)


def test_an_event_without_timing_tells_no_time(cuda: Any) -> None:
    stream, start, stop = cuda.create_stream(), cuda.create_event(timing=False), cuda.create_event()
    for event in (start, stop):
        cuda.record(event, stream)
    cuda.sync(stream)
    with pytest.raises(MachineError, match="elapsed_ms failed"):
        cuda.elapsed_ms(start, stop)


def test_a_stream_waits_for_another_ones_event(cuda: Any) -> None:
    first, second, ready = cuda.create_stream(), cuda.create_stream(), cuda.create_event(timing=False)
    pointer, source, target = cuda.alloc(4), tools().filled(cuda, [5] * 4), cuda.alloc_host(4)
    cuda.h2d(pointer, source, first)
    cuda.record(ready, first)
    cuda.wait(second, ready)
    cuda.d2h(target, pointer, second)
    cuda.sync(second)
    assert target.tolist() == [5] * 4


# ------------------------------------------------------------------------------------------------- graphs


def test_a_graph_does_at_each_launch_what_was_recorded(stack: Any) -> None:
    cuda = stack.cuda
    stream, pointer, source, target = (
        cuda.create_stream(),
        cuda.alloc(4),
        tools().filled(cuda, [1] * 4),
        cuda.alloc_host(4),
    )
    cuda.begin_capture(stream)
    cuda.h2d(pointer, source, stream)
    cuda.d2h(target, pointer, stream)
    graph = cuda.end_capture(stream)
    for value in (3, 4):
        source[:] = value
        cuda.launch(graph, stream)
        cuda.sync(stream)
        assert target.tolist() == [value] * 4
    cuda.destroy_graph(graph)
    assert not stack.fake.graphs
    assert not stack.library.plain_graphs


def test_work_of_another_stream_is_in_the_graph_when_it_is_joined(cuda: Any) -> None:
    main, side, fork, join = cuda.create_stream(), cuda.create_stream(), cuda.create_event(), cuda.create_event()
    pointer, source = cuda.alloc(4), tools().filled(cuda, [1] * 4)
    cuda.begin_capture(main)
    cuda.record(fork, main)
    cuda.wait(side, fork)
    cuda.h2d(pointer, source, side)
    cuda.record(join, side)
    cuda.wait(main, join)
    graph = cuda.end_capture(main)
    target = cuda.alloc_host(4)
    cuda.launch(graph, main)
    cuda.d2h(target, pointer, main)
    cuda.sync(main)
    assert target.tolist() == [1] * 4


@pytest.mark.parametrize("spoil", ["sync", "alloc"])
def test_a_broken_capture_leaves_the_stream_usable(cuda: Any, spoil: str) -> None:
    stream, pointer, source = cuda.create_stream(), cuda.alloc(4), tools().filled(cuda, [1] * 4)
    cuda.begin_capture(stream)
    with pytest.raises(MachineError):
        cuda.sync(stream) if spoil == "sync" else cuda.alloc(4)
    with pytest.raises(MachineError, match="INVALIDATED"):
        cuda.end_capture(stream)
    cuda.h2d(pointer, source, stream)
    cuda.sync(stream)
    cuda.begin_capture(stream)
    cuda.launch(cuda.end_capture(stream), stream)


def test_work_that_can_not_be_captured_says_to_run_without_a_graph(package: Any) -> None:
    stream = package.cuda.create_stream()
    package.cuda.begin_capture(stream)
    with pytest.raises(MachineError):
        package.cuda.sync(stream)
    with pytest.raises(MachineError, match="cuStreamEndCapture failed") as caught:
        package.cuda.end_capture(stream)
    assert "without a CUDA graph" in str(caught.value.fix)


def test_a_graph_that_can_not_be_made_is_not_kept(package: Any) -> None:
    stack = package
    stream = stack.cuda.create_stream()
    stack.library.broken.add("cuGraphInstantiateWithFlags")
    stack.cuda.begin_capture(stream)
    with pytest.raises(MachineError, match="cuGraphInstantiateWithFlags failed: CUDA_ERROR_UNKNOWN"):
        stack.cuda.end_capture(stream)
    assert not stack.library.plain_graphs
    # The stand-in has one handle for a graph and its instance.
    stack.fake.graphs.clear()
    stack.cuda.destroy_stream(stream)
    stack.cuda.close()
    assert stack.nothing_left()


def test_a_driver_without_graphs_says_that_it_is_too_old(fakes: None) -> None:
    packages = importlib.import_module("cuda_packages")
    with pytest.raises(MachineError, match=r"lacks cuGraphInstantiateWithFlags.*11\.4"):
        Library(packages.LibCuda(importlib.import_module("fake_cuda").FakeCuda(), lacks="cuGraphInstantiateWithFlags"))


def test_an_error_of_no_known_kind_is_told_by_its_name(fakes: None) -> None:
    stack = tools().Stack("core")
    stack.driver.cuMemGetInfo = lambda: (7, None, None)
    with pytest.raises(MachineError, match="cuMemGetInfo failed: 7") as caught:
        stack.cuda.free_bytes()
    assert caught.value.fix is None
    stack.cuda.close()
