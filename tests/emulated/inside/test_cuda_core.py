"""The real cuda-core and cuda-bindings, on the software driver."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from emulated_gpu import Emulated

core = pytest.importorskip("cuda.core", reason="cuda-core is not installed")
driver = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")


def pinned(nbytes: int) -> tuple[object, np.ndarray]:
    buffer = core.LegacyPinnedMemoryResource().allocate(nbytes)
    return buffer, np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(int(buffer.handle)))


def test_the_device_says_that_it_is_emulated() -> None:
    assert "Emulated" in core.Device(0).name


def test_copies_events_and_graphs_work_and_leave_nothing(emulated: Emulated) -> None:
    device = core.Device(0)
    device.set_current()
    before = emulated.live
    stream = device.create_stream()
    memory = device.memory_resource.allocate(1000, stream=stream)
    (one, given), (two, got) = pinned(1000), pinned(1000)
    given[:] = 7
    start, stop = (device.create_event({"timing_enabled": True}) for _ in range(2))
    stream.record(start)
    memory.copy_from(one, stream=stream)
    emulated.spin(int(stream.handle), 100)
    memory.copy_to(two, stream=stream)
    stream.record(stop)
    assert got[0] != 7, "a copy to pinned memory must not wait"
    stream.sync()
    assert (got == 7).all()
    assert stop - start >= 100

    builder = stream.create_graph_builder()
    builder.begin_building(mode="thread_local")
    memory.fill(3, stream=builder)
    memory.copy_to(two, stream=builder)
    builder.end_building()
    graph = builder.complete()
    builder.close()
    assert got[0] == 7
    graph.launch(stream)
    stream.sync()
    assert (got == 3).all()

    for thing in (graph, start, stop, memory, one, two, stream):
        thing.close()
    driver.cuCtxSynchronize()
    assert emulated.live == before
