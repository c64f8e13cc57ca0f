"""A static estimate of an engine's time: bytes over bandwidth, operations over rate, launch cost, per kernel.

It ranks placements where no GPU is at hand, and is called an estimate wherever it is shown: caches, occupancy and
kernels that overlap are not in it (the roofline model of Williams et al. 2009, with a cost per launch).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from mmtrt.engine.layers import EngineLayer, LayerTensor

__all__ = ["Estimate", "Gpu", "KernelEstimate", "estimate", "owners", "tensor_bytes"]

_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1, "uint8": 1, "bool": 1, "int32": 4, "int64": 8, "fp8": 1}


class Gpu(BaseModel):
    """What a GPU can do at best: memory in GB/s, dense rates in 10^12 operations/s, microseconds to start a kernel."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    memory_gb_s: float = Field(gt=0)
    fp32_tflops: float = Field(gt=0)
    fp16_tflops: float = Field(gt=0)
    int8_tops: float = Field(gt=0)
    launch_us: float = Field(default=2.0, ge=0)

    def rate(self, precision: str) -> float:
        """Return multiply-accumulates and additions a second in a precision; FP32's where it is unknown."""
        rates = {"int8": self.int8_tops, "fp16": self.fp16_tflops, "bf16": self.fp16_tflops}
        return rates.get(precision, self.fp32_tflops) * 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelEstimate:
    """One kernel: its layer, bytes that it reads and writes, multiply-accumulates, and microseconds."""

    layer: EngineLayer
    bytes_moved: int
    macs: int
    time_us: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """An engine's kernels on a GPU, with the sums over them; `int8_share` is of the multiply-accumulates."""

    gpu: Gpu
    kernels: tuple[KernelEstimate, ...]
    bytes_moved: int
    macs: int
    int8_share: float
    time_us: float

    def to_json(self) -> dict[str, Any]:
        """Return the sums as plain JSON data."""
        return {
            "gpu": self.gpu.name,
            "kernels": len(self.kernels),
            "bytes_moved": self.bytes_moved,
            "macs": self.macs,
            "int8_share": self.int8_share,
            "estimated_us": self.time_us,
        }


def estimate(layers: Sequence[EngineLayer], macs: Mapping[str, int], gpu: Gpu) -> Estimate:
    """Estimate an engine whose layers have no open sizes; `macs` gives each ONNX node's multiply-accumulates.

    ValueError where a layer has a dynamic axis: build it for the one shape that is asked about.
    """
    work = owners(layers, macs)
    kernels = []
    for index, layer in enumerate(layers):
        if layer.role == "shape":
            continue
        own = sum(macs[name] for name, owner in work.items() if owner == index)
        moved = sum(tensor_bytes(tensor) for tensor in (*layer.inputs, *layer.outputs, *layer.constants))
        seconds = max(moved / (gpu.memory_gb_s * 1e9), 2 * own / gpu.rate(layer.precision))
        kernels.append(KernelEstimate(layer=layer, bytes_moved=moved, macs=own, time_us=seconds * 1e6 + gpu.launch_us))
    total = sum(kernel.macs for kernel in kernels)
    inside = sum(kernel.macs for kernel in kernels if kernel.layer.precision == "int8")
    return Estimate(
        gpu=gpu,
        kernels=tuple(kernels),
        bytes_moved=sum(kernel.bytes_moved for kernel in kernels),
        macs=total,
        int8_share=inside / total if total else 0.0,
        time_us=sum(kernel.time_us for kernel in kernels),
    )


_PREFERENCE = ("gemm", "conv", "other", "move")


def owners(layers: Sequence[EngineLayer], macs: Mapping[str, int]) -> dict[str, int]:
    """Return the layer that does each node's work: an epilogue in a kernel of its own names the node too."""
    owners: dict[str, int] = {}
    for index, layer in enumerate(layers):
        if layer.role not in _PREFERENCE:
            continue
        for name in layer.nodes:
            if name not in macs:
                continue
            before = owners.get(name)
            if before is None or _PREFERENCE.index(layer.role) < _PREFERENCE.index(layers[before].role):
                owners[name] = index
    return owners


def tensor_bytes(tensor: LayerTensor) -> int:
    """Return what a tensor takes; ValueError where it has a dynamic axis."""
    if any(dim < 0 for dim in tensor.dims):
        raise ValueError(f"{tensor.name!r} has a dynamic axis: {list(tensor.dims)}")
    return math.prod(tensor.dims) * _BYTES.get(tensor.dtype, 4)
