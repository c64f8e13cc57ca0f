"""One run of tensors as callers have them: what lies on the GPU is used there, all else goes through the lane."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mmtrt.errors import InputError
from mmtrt.runtimes.engines.device import Device, DeviceArray
from mmtrt.runtimes.engines.lane import Lane
from mmtrt.runtimes.engines.plan import Shapes
from mmtrt.runtimes.given import (
    DeviceTensor,
    Given,
    Gpu,
    OutputKind,
    as_torch,
    check_room,
    import_torch,
    is_torch,
    look,
    overlap,
    room,
)

__all__ = ["Call"]

_ALIGNMENT = 256
"""TensorRT takes no address that is not a multiple of it, bytes."""


class Call:
    """`run` once; then `release`, once the lane has come to rest, whatever happened."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._cuda = device.cuda
        self._given, self._rooms = Given(), Given()
        # What the engine can't use where it lies is copied within the GPU.
        self._aligned: dict[str, DeviceArray] = {}

    def run(
        self,
        lane: Lane,
        feeds: Mapping[str, Any],
        outputs: OutputKind | None,
        out: Mapping[str, Any],
        check: Callable[[Given], Shapes],
    ) -> dict[str, Any]:
        """Run and wait: see `Session.run`. `check` looks at the inputs and returns their shapes."""
        given, rooms = self._given, self._rooms
        gpu = Gpu(device=self._cuda.device, stream=lane.stream, fetch=lane.fetch)
        look(given, feeds, gpu)
        shapes = check(given)
        on_torch = any(is_torch(feeds[name]) for name in given.device)
        if outputs is None and on_torch:
            outputs = "torch"
        held = dict(out)
        if out or outputs == "dlpack" or (outputs == "torch" and on_torch):
            self._make_rooms(lane, held, outputs if on_torch or outputs == "dlpack" else None, shapes, gpu)
        elsewhere = {name: self._input_address(lane, name, tensor) for name, tensor in given.device.items()}
        elsewhere |= {name: self._output_address(name, tensor) for name, tensor in rooms.device.items()}
        layout = lane.layout(shapes, elsewhere)
        lane.run(layout, given.host)
        self._copy_out(lane, layout.read)
        told = {
            spec.name: held[spec.name] if spec.name in held else layout.read[spec.name].copy()
            for spec in lane.plan.outputs
        }
        return told if outputs != "torch" else {name: as_torch(value) for name, value in told.items()}

    def release(self) -> None:
        """Give back what callers handed in."""
        self._given.release()
        self._rooms.release()
        self._aligned.clear()

    def _make_rooms(self, lane: Lane, out: dict[str, Any], kind: OutputKind | None, shapes: Shapes, gpu: Gpu) -> None:
        """Look at the memory that outputs are to fill, and add to `out` what is to be made on the GPU."""
        specs = lane.plan.outputs
        made = dict(zip((spec.name for spec in specs), lane.outputs_of(shapes), strict=True))
        for name in out:
            if name not in made:
                raise InputError(f"the model has no output {name!r}", fix=f"Its outputs are {', '.join(made)}.")
        for spec in specs:
            if spec.name not in out and kind == "dlpack":
                out[spec.name] = DeviceArray(self._device, spec.dtype, made[spec.name])
            elif spec.name not in out and kind == "torch":
                out[spec.name] = _torch_empty(spec.dtype, made[spec.name], gpu.device)
        room(self._rooms, out, gpu)
        memory = self._rooms.all()
        for spec in specs:
            if spec.name in memory:
                check_room(spec.name, memory[spec.name], spec.dtype, made[spec.name])

    def _input_address(self, lane: Lane, name: str, tensor: DeviceTensor) -> int:
        if tensor.pointer % _ALIGNMENT == 0:
            return tensor.pointer
        copy = self._aligned[name] = DeviceArray(self._device, tensor.dtype, tensor.shape)
        self._cuda.d2d(copy.pointer, tensor.pointer, tensor.nbytes, lane.stream)
        return copy.pointer

    def _output_address(self, name: str, tensor: DeviceTensor) -> int:
        # Where an input lies, the engine would write over what it has yet to read.
        apart = not any(overlap(tensor, fed) for fed in self._given.device.values())
        if tensor.pointer % _ALIGNMENT == 0 and tensor.nbytes and apart:
            return tensor.pointer
        copy = self._aligned[name] = DeviceArray(self._device, tensor.dtype, tensor.shape)
        return copy.pointer

    def _copy_out(self, lane: Lane, read: Mapping[str, Any]) -> None:
        for name, array in self._rooms.host.items():
            np.copyto(array, read[name])
        late = [name for name in self._rooms.device if name in self._aligned]
        for name in late:
            tensor = self._rooms.device[name]
            if tensor.nbytes:
                self._cuda.d2d(tensor.pointer, self._aligned[name].pointer, tensor.nbytes, lane.stream)
        if late:
            self._cuda.sync(lane.stream)


def _torch_empty(dtype: str, shape: tuple[int, ...], device: int) -> Any:
    torch = import_torch()
    return torch.empty(shape, dtype=getattr(torch, dtype), device=f"cuda:{device}")
