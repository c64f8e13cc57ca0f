"""Whatever call of CUDA's fails, the one who called is told, and everything is given back."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
from cuda_devices import Copies, opener
from emulated_gpu import Emulated

from mmtrt.errors import MachineError
from mmtrt.runtimes.cuda import _IMPLEMENTATIONS, Cuda

# These give back: where one fails, the driver keeps the thing, and nobody can help it.
GIVE_BACK = {
    "cuMemFree_v2",
    "cuMemFreeHost",
    "cuStreamDestroy_v2",
    "cuEventDestroy_v2",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuDevicePrimaryCtxRelease_v2",
}


def scenario(open_device: Callable[[], Cuda]) -> None:
    """Everything once, in the way in which a session would."""
    device = open_device()
    try:
        device.activate()
        stream, start, stop = device.create_stream(), device.create_event(), device.create_event()
        copies = Copies(device, mapped=True)
        device.device_pointer(copies.given)
        device.record(start, stream)
        copies.enqueue(stream)
        device.begin_capture(stream)
        copies.enqueue(stream)
        graph = device.end_capture(stream)
        device.launch(graph, stream)
        device.record(stop, stream)
        device.sync(stream)
        device.wait(stream, stop)
        device.sync_event(stop)
        device.passed(stop)
        device.elapsed_ms(start, stop)
        device.free_bytes()
    finally:
        device.close()


# Asked while a GPU is looked for: where one of these fails there is none.
FINDS = {"cuInit", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetName", "cuDeviceTotalMem_v2", "cuDeviceGetAttribute"}
TEXTS = {"cuGetErrorName", "cuGetErrorString", "cuDriverGetVersion"}
# Where a context can't be popped, pycuda's own stack is wrong for good, and it aborts the process at its end.
FATAL = {"cuCtxPopCurrent_v2"}
# pycuda gives back inside the context: where that can't be entered any more, nothing can be given back.
ENTERS = {"cuCtxSetCurrent", "cuCtxPushCurrent_v2"}
NOT_TOLD = 304


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("name", _IMPLEMENTATIONS)
def test_whatever_fails_is_told_and_everything_is_given_back(name: str, emulated: Emulated) -> None:
    open_device = opener(name)
    scenario(open_device)
    counts = {called: emulated.calls(called) for called in emulated.called() - FINDS - TEXTS - FATAL}
    scenario(open_device)
    counts = {called: emulated.calls(called) - before for called, before in counts.items()}
    before, told, kept = emulated.live, set(), set()
    for called, nth in [(called, nth) for called, count in sorted(counts.items()) for nth in range(1, count + 1)]:
        emulated.fail(called, NOT_TOLD, nth=nth)
        try:
            scenario(open_device)
        except MachineError:
            told.add(called)
        emulated.clear_faults()
        # What an earlier fault kept may go whenever Python collects it, and is not of this one.
        gc.collect()
        if emulated.live != before:
            kept.add(called)
            before = emulated.live
    assert kept <= GIVE_BACK | ENTERS
    assert len(told) > 10
    assert {called for called, count in counts.items() if count} - told <= GIVE_BACK
