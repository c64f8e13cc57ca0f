"""The real cuda-bindings package takes what is passed to it; without a driver each call says so."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mmtrt.errors import MachineError
from mmtrt.runtimes.cuda import gpu
from mmtrt.runtimes.cuda.bindings import BindingsCuda, open_device

runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
pytestmark = pytest.mark.skipif(gpu() is not None, reason="this machine has a GPU")

HANDLE = 4096


@pytest.mark.parametrize(
    "call",
    [
        lambda cuda: cuda.alloc(8),
        lambda cuda: cuda.free(HANDLE),
        lambda cuda: cuda.alloc_host(8),
        lambda cuda: cuda.free_host(np.zeros(8, np.uint8)),
        lambda cuda: cuda.h2d(HANDLE, np.zeros(8, np.uint8), HANDLE),
        lambda cuda: cuda.d2h(np.zeros(8, np.uint8), HANDLE, HANDLE),
        lambda cuda: cuda.create_stream(),
        lambda cuda: cuda.sync(HANDLE),
        lambda cuda: cuda.destroy_stream(HANDLE),
        lambda cuda: cuda.create_event(),
        lambda cuda: cuda.record(HANDLE, HANDLE),
        lambda cuda: cuda.elapsed_ms(HANDLE, HANDLE),
        lambda cuda: cuda.destroy_event(HANDLE),
        lambda cuda: cuda.free_bytes(),
    ],
)
def test_each_call_is_accepted_and_fails_for_want_of_a_driver(call: Callable[[BindingsCuda], object]) -> None:
    cuda = object.__new__(BindingsCuda)
    cuda._runtime = runtime
    with pytest.raises(MachineError, match=r"cuda\w+ failed: cudaError"):
        call(cuda)


def test_the_device_can_not_be_opened() -> None:
    with pytest.raises(MachineError, match="cudaSetDevice failed"):
        open_device()
