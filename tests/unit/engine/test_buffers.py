"""Buffers over a CUDA in memory, with two memories and with one."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from mmtrt.errors import MachineError
from mmtrt.runtimes.cuda.buffers import Buffer


@pytest.fixture(params=[False, True], ids=["two memories", "one memory"])
def device(request: pytest.FixtureRequest, fakes: None) -> Any:
    return importlib.import_module("fake_cuda").FakeCuda(shares_memory=request.param)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.arange(24, dtype=np.int64).reshape(2, 3, 4).transpose(2, 0, 1),
        np.array(3.5, np.float16),
        np.zeros((2, 0), np.float32),
        np.arange(10)[::-3] > 4,
    ],
)
def test_a_buffer_gives_back_what_was_written(device: Any, array: Any) -> None:
    stream, buffer = device.create_stream(), Buffer(device)
    for wanted in (array, np.zeros_like(array)):
        buffer.write(wanted)
        buffer.upload(stream)
        buffer.download(stream)
        device.sync(stream)
        got = buffer.read(array.dtype, array.shape)
        assert got.dtype == array.dtype
        np.testing.assert_array_equal(got, wanted)
    assert device.calls["h2d"] == (0 if device.shares_memory or not array.nbytes else 2)
    buffer.free()
    buffer.free()
    assert not device.memory
    assert not device.host


def test_a_buffer_reaches_the_device(device: Any) -> None:
    stream, buffer = device.create_stream(), Buffer(device)
    buffer.write(np.array([1, 2, 3], np.uint8))
    buffer.upload(stream)
    device.sync(stream)
    assert device.at(buffer.pointer)[:3].tolist() == [1, 2, 3]


def test_a_buffer_moves_only_when_it_grows(device: Any) -> None:
    buffer = Buffer(device)
    assert buffer.capacity == 0
    seen = []
    for nbytes in (8, 4, 0, 8, 16, 12, 16):
        buffer.resize(nbytes)
        seen.append((buffer.capacity, buffer.pointer))
    assert len(set(seen[:4])) == 1
    assert len(set(seen[4:])) == 1
    assert seen[0][0] == 8
    assert seen[4][0] == 16
    assert seen[0][1] != seen[4][1]
    buffer.free()
    assert buffer.capacity == buffer.pointer == 0


@pytest.mark.parametrize("method", ["alloc", "alloc_host", "device_pointer"])
def test_a_buffer_that_gets_no_memory_is_empty_and_can_be_used_again(device: Any, method: str) -> None:
    buffer = Buffer(device)
    buffer.resize(4)
    needed = {"alloc_host", "device_pointer"} if device.shares_memory else {"alloc", "alloc_host"}
    if method not in needed:
        pytest.skip("it is not called there")
    device.fail(1, method)
    with pytest.raises(MachineError, match=method):
        buffer.resize(8)
    assert not device.memory
    assert not device.host
    assert buffer.pointer == 0
    buffer.write(np.ones(8, np.uint8))
    assert buffer.read(np.uint8, (8,)).tolist() == [1] * 8


def test_a_view_is_the_memory_itself(device: Any) -> None:
    buffer = Buffer(device)
    buffer.resize(8)
    view = buffer.view("float32", (2,))
    view[:] = (1, 2)
    assert buffer.read(np.float32, (1, 2)).tolist() == [[1, 2]]
    copy = buffer.read(np.float32, (2,))
    view[:] = 0
    assert copy.tolist() == [1, 2]


def test_a_buffer_without_memory_shows_nothing(device: Any) -> None:
    with pytest.raises(RuntimeError, match="no memory yet"):
        Buffer(device).read(np.uint8, (8,))


def test_a_host_side_that_was_lent_is_left_to_who_holds_it(device: Any) -> None:
    buffer = Buffer(device)
    with pytest.raises(RuntimeError, match="no memory yet"):
        buffer.lend_host()
    buffer.resize(8)
    host = buffer.lend_host()
    buffer.write(np.arange(8, dtype=np.uint8))
    buffer.free()
    assert not device.memory
    assert host.tolist() == list(range(8))
    device.free_host(host)
    buffer.resize(4)
    buffer.free()
    assert not device.host
