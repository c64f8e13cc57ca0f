"""DLPack by ctypes against numpy's own: what one gives the other takes, both ways and both versions."""

from __future__ import annotations

import gc
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtrt.errors import InputError
from mmtrt.runtimes import dlpack

DTYPES = ["bool", "int8", "uint8", "int16", "int32", "int64", "uint64", "float16", "float32", "float64", "complex64"]


@st.composite
def arrays(draw: Any) -> Any:
    """Arrays of every type, with gaps, turned axes and negative strides, empty ones and scalars too."""
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    array = np.arange(int(np.prod(shape))).reshape(shape).astype(draw(st.sampled_from(DTYPES)))
    array = array.transpose(draw(st.permutations(range(array.ndim))))
    steps = [draw(st.sampled_from([1, 2, -1, -2])) for _ in range(array.ndim)]
    return np.asarray(array[tuple(slice(None, None, step) for step in steps)])


class Giver:
    """Hands out an array through our own export."""

    def __init__(self, array: Any, *, versioned: bool, read_only: bool = False) -> None:
        self.array, self.told = array, {"versioned": versioned, "read_only": read_only}
        self.out = 0

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CPU, 0

    def __dlpack__(self, **_: object) -> Any:
        self.out += 1

        def back() -> None:
            self.out -= 1

        return dlpack.capsule_of(
            pointer=self.array.ctypes.data,
            shape=self.array.shape,
            dtype=str(self.array.dtype),
            device=(dlpack.CPU, 0),
            done=back,
            **self.told,
        )


@settings(max_examples=200, deadline=None)
@given(arrays())
def test_what_numpy_gives_is_taken_without_a_copy(array: Any) -> None:
    taken = dlpack.take(array, "it")
    view = taken.array()
    assert view.dtype == array.dtype
    np.testing.assert_array_equal(view, array)
    assert taken.contiguous == array.flags.c_contiguous
    assert taken.nbytes == array.nbytes
    if array.size:
        assert np.shares_memory(view, array)
    taken.release()
    taken.release()


@settings(max_examples=200, deadline=None)
@given(arrays(), st.booleans())
def test_what_we_give_numpy_takes_and_gives_back(array: Any, versioned: bool) -> None:
    giver = Giver(np.ascontiguousarray(array), versioned=versioned)
    view = np.from_dlpack(giver)
    assert view.dtype == array.dtype
    np.testing.assert_array_equal(view, array)
    assert giver.out == 1
    del view
    assert giver.out == 0


@pytest.mark.parametrize("versioned", [False, True])
def test_a_capsule_that_nobody_takes_gives_back_too(versioned: bool) -> None:
    giver = Giver(np.ones(3, np.float32), versioned=versioned)
    capsule = giver.__dlpack__()
    assert giver.out == 1
    del capsule
    assert giver.out == 0
    for _ in range(1000):
        giver.__dlpack__()
    gc.collect()
    assert giver.out == 0


@pytest.mark.parametrize("versioned", [False, True])
def test_a_capsule_is_taken_once(versioned: bool) -> None:
    giver = Giver(np.ones(3, np.float32), versioned=versioned)
    capsule = giver.__dlpack__()
    taken = dlpack.take(capsule, "it")
    with pytest.raises(InputError, match="was taken before"):
        dlpack.take(capsule, "it")
    del capsule
    assert giver.out == 1
    taken.release()
    assert giver.out == 0


def test_read_only_memory_stays_so() -> None:
    giver = Giver(np.ones(3, np.float32), versioned=True, read_only=True)
    taken = dlpack.take(giver, "it")
    assert taken.read_only
    assert not taken.array().flags.writeable
    taken.release()


def test_it_is_given_back_by_any_thread() -> None:
    giver = Giver(np.ones(3, np.float32), versioned=True)

    def run() -> None:
        for _ in range(200):
            dlpack.take(giver, "it").release()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert giver.out == 0


class Refusing:
    def __dlpack__(self, **_: object) -> Any:
        raise BufferError("it needs gradients")

    def __dlpack_device__(self) -> Any:
        raise RuntimeError("nowhere")


def test_what_is_no_tensor_is_refused_by_name() -> None:
    for value, words in ((3, "'x' is int, which is no tensor"), (Refusing(), "'x' can't be taken by DLPack: it needs")):
        with pytest.raises(InputError, match=words):
            dlpack.take(value, "'x'")
    with pytest.raises(InputError, match="doesn't tell where it lies: nowhere"):
        dlpack.device_of(Refusing(), "'x'")


def test_memory_that_is_gone_is_refused() -> None:
    giver = Giver(np.ones(3, np.float32), versioned=True)
    capsule = dlpack.capsule_of(pointer=0, shape=(3,), dtype="float32", device=(1, 0), done=lambda: None)
    with pytest.raises(InputError, match="'x' has no memory: it was freed"):
        dlpack.take(capsule, "'x'")
    assert giver.out == 0
