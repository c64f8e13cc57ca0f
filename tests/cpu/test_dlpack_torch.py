"""DLPack by ctypes against PyTorch's tensors on the CPU, and sessions that take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtrt import Session
from mmtrt.errors import InputError
from mmtrt.runtimes import dlpack

DTYPES = [torch.bool, torch.int8, torch.uint8, torch.int32, torch.int64, torch.float16, torch.float32, torch.float64]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_what_pytorch_gives_is_taken_without_a_copy(data: Any) -> None:
    shape = data.draw(st.lists(st.integers(0, 4), max_size=4))
    tensor = torch.arange(int(np.prod(shape))).reshape(shape).to(data.draw(st.sampled_from(DTYPES)))
    tensor = tensor.permute(data.draw(st.permutations(range(tensor.ndim))))
    tensor = tensor[tuple(slice(None, None, data.draw(st.integers(1, 2))) for _ in range(tensor.ndim))]
    taken = dlpack.take(tensor, "it")
    np.testing.assert_array_equal(taken.array(), tensor.numpy())
    assert taken.contiguous == tensor.is_contiguous()
    if tensor.numel():
        assert taken.pointer == tensor.data_ptr()
    taken.release()


@pytest.mark.parametrize("versioned", [False, True])
def test_what_we_give_pytorch_takes_and_gives_back(versioned: bool) -> None:
    array, backs = np.arange(6, dtype=np.float32).reshape(2, 3), []
    capsule = dlpack.capsule_of(
        pointer=array.ctypes.data,
        shape=array.shape,
        dtype="float32",
        device=(dlpack.CPU, 0),
        done=lambda: backs.append(1),
        versioned=versioned,
    )
    tensor = torch.from_dlpack(capsule)
    assert tensor.data_ptr() == array.ctypes.data
    assert torch.equal(tensor, torch.from_numpy(array))
    assert not backs
    del tensor
    assert backs == [1]


def feeds() -> dict[str, Any]:
    return {
        "image": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)),
        "ids": torch.arange(10).reshape(5, 2).T,
        "mask": torch.ones(2, 5, dtype=torch.int64),
    }


def test_a_session_takes_tensors_and_gives_what_is_asked_for(tiny: Path) -> None:
    with Session(tiny) as session:
        wanted = session.run({name: tensor.numpy() for name, tensor in feeds().items()})
        assert all(isinstance(value, np.ndarray) for value in session.run(feeds()).values())
        told = session.run(**feeds(), outputs="torch")
        assert all(np.array_equal(told[name].numpy(), wanted[name]) for name in wanted)
        room = {name: torch.zeros(value.shape) for name, value in told.items()}
        assert session.run(feeds(), out=room)["answer"] is room["answer"]
        assert all(torch.equal(room[name], told[name]) for name in told)
        with session.bind(feeds()) as bound:
            bound.inputs["image"][...] = feeds()["image"].numpy()
            assert np.array_equal(bound.run()["answer"], wanted["answer"])


def test_a_session_names_tensors_that_can_not_be_fed(tiny: Path) -> None:
    freed = torch.ones(2, 3, 16, 16)
    freed.untyped_storage().resize_(0)
    with Session(tiny) as session:
        for image, words in (
            (torch.ones(2, 3, 16, 16, requires_grad=True), "'image' can't be taken"),
            (torch.ones(2, 3, 16, 16, dtype=torch.bfloat16), "'image' is bfloat16"),
            (torch.ones(2, 3, 16, 16, dtype=torch.float64), "'image' is float64"),
            (torch.ones(2, 3, 16, 16, device="meta"), "'image'"),
            (freed, "'image' has no memory: it was freed"),
        ):
            with pytest.raises(InputError, match=words):
                session.run({**feeds(), "image": image})
        assert session.run(feeds())
    with pytest.raises(InputError, match="the session is closed"):
        session.run(feeds())
