"""What stays of a CUDA device after errors, after `close`, in other threads, and where code is careless: nothing."""

# ruff: noqa: ARG005

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mmtrt.errors import MachineError
from mmtrt.runtimes.cuda.library import Library
from mmtrt.runtimes.cuda.pycuda import PyCuda


def tools() -> Any:
    return importlib.import_module("cuda_stack")


# ------------------------------------------------------------------------------------------------- giving back


def test_close_frees_what_was_forgotten_and_tells_of_it(package: Any) -> None:
    taken = tools().take_all(package.cuda)
    package.cuda.h2d(taken["pointer"], taken["host"], taken["stream"])
    with pytest.warns(ResourceWarning, match=r"stream \(1\), event \(1\), graph \(1\), block of device memory \(1\)"):
        package.cuda.close()
    assert package.nothing_left()
    package.cuda.close()


@pytest.mark.parametrize("method", ["free", "free_host", "destroy_event", "destroy_graph", "sync", "activate"])
def test_close_goes_on_after_an_error(package: Any, method: str) -> None:
    if (method, type(package.cuda)) in {("destroy_event", PyCuda), ("activate", PyCuda)}:
        pytest.skip("pycuda tells no error there")
    tools().take_all(package.cuda)
    package.fake.fail(1, method)
    with pytest.warns(ResourceWarning):
        package.cuda.close()
    assert package.nothing_left()


@pytest.mark.parametrize("broken", [False, True])
def test_a_capture_that_an_error_left_open_is_given_up(package: Any, broken: bool) -> None:
    cuda = package.cuda
    streams = [cuda.create_stream() for _ in range(2)]
    for stream in streams:
        cuda.begin_capture(stream)
        if broken:
            with pytest.raises(MachineError):
                cuda.sync(stream)
        cuda.destroy_stream(stream)
    stream = cuda.create_stream()
    cuda.begin_capture(stream)
    with pytest.warns(ResourceWarning, match=r"before stream \(1\) was given back"):
        cuda.close()
    assert package.nothing_left()
    assert not package.fake.captures


CALLS: list[Callable[[Any, dict[str, Any]], Any]] = [
    lambda cuda, at: cuda.alloc(8),
    lambda cuda, at: cuda.alloc_host(8),
    lambda cuda, at: cuda.h2d(at["pointer"], at["host"], at["stream"]),
    lambda cuda, at: cuda.d2h(at["host"], at["pointer"], at["stream"]),
    lambda cuda, at: cuda.d2d(at["pointer"], at["pointer"], 8, at["stream"]),
    lambda cuda, at: cuda.create_stream(),
    lambda cuda, at: cuda.sync(at["stream"]),
    lambda cuda, at: cuda.create_event(),
    lambda cuda, at: cuda.record(at["event"], at["stream"]),
    lambda cuda, at: cuda.wait(at["stream"], at["event"]),
    lambda cuda, at: cuda.sync_event(at["event"]),
    lambda cuda, at: cuda.passed(at["event"]),
    lambda cuda, at: cuda.elapsed_ms(at["event"], at["event"]),
    lambda cuda, at: cuda.begin_capture(at["stream"]),
    lambda cuda, at: cuda.end_capture(at["stream"]),
    lambda cuda, at: cuda.launch(at["graph"], at["stream"]),
    lambda cuda, at: cuda.free_bytes(),
    lambda cuda, at: cuda.total_bytes(),
]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("call", CALLS)
def test_after_close_each_call_is_refused_and_never_reaches_the_driver(
    stack: Any, call: Callable[[Any, dict[str, Any]], Any]
) -> None:
    taken = tools().take_all(stack.cuda)
    stack.cuda.close()
    before = dict(stack.fake.calls)
    with pytest.raises(MachineError, match="the device is closed"):
        call(stack.cuda, taken)
    if stack.driver is not None:
        assert stack.fake.calls == before


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_after_close_giving_back_does_nothing(stack: Any) -> None:
    taken = tools().take_all(stack.cuda)
    stack.cuda.close()
    stack.cuda.free(taken["pointer"])
    stack.cuda.free_host(taken["host"])
    stack.cuda.destroy_event(taken["event"])
    stack.cuda.destroy_graph(taken["graph"])
    stack.cuda.destroy_stream(taken["stream"])


def test_what_was_given_back_is_refused_by_name(package: Any) -> None:
    cuda = package.cuda
    stream = cuda.create_stream()
    cuda.destroy_stream(stream)
    for call in (cuda.sync, cuda.destroy_stream, cuda.begin_capture):
        with pytest.raises(MachineError, match="is no handle of this device's: it was given back"):
            call(stream)
    with pytest.raises(MachineError, match="no handle"):
        cuda.free(4096)
    cuda.close()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("call", CALLS)
def test_whatever_fails_is_told_by_cudas_name_for_it(package: Any, call: Callable[[Any, dict[str, Any]], Any]) -> None:
    taken = tools().take_all(package.cuda)
    package.cuda.record(taken["event"], taken["stream"])
    package.cuda.sync(taken["stream"])
    package.fake.fail(1)
    message, _ = tools().told_by(lambda: call(package.cuda, taken))
    assert "CUDA_ERROR_" in message or "have not completed" in message


def test_a_thread_that_can_not_be_given_the_device_is_told(package: Any) -> None:
    package.library.broken.add("cuCtxSetCurrent")
    package.fake.fail(1, "activate")
    with pytest.raises(MachineError, match=r"failed: (CUDA_ERROR_UNKNOWN|as the test)"):
        package.cuda.activate()
    package.library.broken.clear()


# ------------------------------------------------------------------------------------------------- lost contexts


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_lost_context_says_to_restart_and_giving_back_is_silent(stack: Any) -> None:
    cuda = stack.cuda
    taken = tools().take_all(cuda)
    cuda.d2h(taken["host"], 4096, taken["stream"])
    for _ in range(2):
        message, fix = tools().told_by(lambda: cuda.sync(taken["stream"]))
        assert "ILLEGAL_ADDRESS" in message
        assert stack.driver is None or "lost: end the process and start it again" in fix
    cuda.free(taken["pointer"])
    cuda.free_host(taken["host"])
    cuda.destroy_graph(taken["graph"])
    cuda.destroy_event(taken["event"])
    cuda.destroy_stream(taken["stream"])
    cuda.close()
    assert stack.nothing_left()


# ------------------------------------------------------------------------------------------------- threads


def test_another_thread_works_once_it_has_activated_the_device(stack: Any) -> None:
    cuda = stack.cuda

    def work() -> list[int]:
        for _ in range(3):
            cuda.activate()
        stream, pointer, source, target = (
            cuda.create_stream(),
            cuda.alloc(4),
            tools().filled(cuda, [8] * 4),
            cuda.alloc_host(4),
        )
        cuda.h2d(pointer, source, stream)
        cuda.d2h(target, pointer, stream)
        cuda.sync(stream)
        values = target.tolist()
        for buffer in (source, target):
            cuda.free_host(buffer)
        cuda.free(pointer)
        cuda.destroy_stream(stream)
        return values

    assert tools().in_thread(work) == [8] * 4


def test_pycuda_has_nothing_on_its_stack_that_would_abort_the_process(fakes: None) -> None:
    stack = tools().Stack("pycuda")

    def work() -> None:
        stack.cuda.activate()
        tools().take_all(stack.cuda)
        with pytest.raises(MachineError):
            stack.cuda.alloc(1 << 30)
        assert not stack.driver.stack()

    tools().in_thread(work)
    work()
    assert not any(stack.driver.stacks.values())
    with pytest.warns(ResourceWarning):
        stack.cuda.close()
    assert not any(stack.driver.stacks.values())
    assert stack.nothing_left()


def test_pycuda_works_beside_a_context_of_somebody_elses_and_gives_it_back(fakes: None) -> None:
    packages = importlib.import_module("pycuda_package")
    stack = tools().Stack("in memory")
    driver = packages.PycudaDriver(stack.fake, stack.library)
    theirs = packages.Context(driver, 0x2000)
    theirs.push()
    cuda = PyCuda(driver, 0, stack.fake.info, Library(stack.library))
    stream = cuda.create_stream()
    cuda.sync(stream)
    assert stack.library.current() == [packages.PRIMARY]
    cuda.destroy_stream(stream)
    tools().in_thread(cuda.close)
    assert stack.library.current() == [packages.PRIMARY]
    cuda = PyCuda(driver, 0, stack.fake.info, Library(stack.library))
    cuda.close()
    assert driver.stack() == [theirs]


def test_pycuda_leaves_the_context_that_was_current_before(fakes: None) -> None:
    packages = importlib.import_module("pycuda_package")
    stack = tools().Stack("in memory")
    stack.library.current().append(0x2000)
    cuda = PyCuda(packages.PycudaDriver(stack.fake, stack.library), 0, stack.fake.info, Library(stack.library))
    assert stack.library.current() == [packages.PRIMARY]
    cuda.close()
    assert stack.library.current() == [0x2000]


# ------------------------------------------------------------------------------------------------- the CUDA in memory


def test_the_fake_fails_where_it_is_told_to(fakes: None) -> None:
    fake = importlib.import_module("fake_cuda").FakeCuda()
    fake.fail(3)
    stream = fake.create_stream()
    fake.create_event()
    with pytest.raises(MachineError, match="as the test wants it"):
        fake.sync(stream)
    fake.sync(stream)


def test_the_fake_finds_what_a_device_would_do_to_careless_code(fakes: None) -> None:
    fake = importlib.import_module("fake_cuda").FakeCuda()
    stream, pointer, host = fake.create_stream(), fake.alloc(4), fake.alloc_host(4)
    with pytest.raises(AssertionError, match="not pinned"):
        fake.h2d(pointer, np.zeros(4, np.uint8), stream)
    fake.h2d(pointer, host, stream)
    with pytest.raises(AssertionError, match="while the device uses it"):
        fake.free(pointer)
    with pytest.raises(AssertionError, match="did not call `activate`"):
        tools().in_thread(lambda: fake.sync(stream))
    fake.sync(stream)
    fake.close()
    assert fake.leaked == {"memory": 1, "host": 1, "streams": 1}
    assert fake.left_over()
