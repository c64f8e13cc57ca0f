"""Constants that FP16 can't hold, and weights that are no numbers; each named by the module that it belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from mmtrt.export.findings import Finding
from mmtrt.export.tidy import MODULE_KEY, SOURCE_KEY
from mmtrt.onnx_mapped import weight_chunks
from mmtrt.tensors import Array

__all__ = ["constant_findings", "weight_findings"]

LARGEST = 65504.0
"""Largest finite FP16 number."""

SMALLEST = 2.0**-25
"""What is no larger becomes 0: half of the smallest FP16 number above it."""

_MASK = -1e8
"""What lies below fills masks: `mmtrt build` clamps it to what FP16 holds."""

_SHOWN = 10
_FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE}


def weight_findings(module: nn.Module) -> Iterator[Finding]:
    """Yield the parameters that hold NaN or infinity, and the buffers that hold NaN: infinity may fill a mask."""
    parameters = dict(module.named_parameters())
    for name, tensor in (*parameters.items(), *module.named_buffers()):
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        # NaN goes through both; no copy is made.
        low, high = torch.aminmax(tensor.detach())
        bad = low.isnan() or (name in parameters and (low.isinf() or high.isinf()))
        if bad:
            count = int((~tensor.detach().isfinite()).sum())
            yield Finding(
                kind="weights not finite",
                what=f"{count} of the {tensor.numel()} values of {name!r} are NaN or infinite",
                where=name.rpartition(".")[0] or name,
                fix="Export a checkpoint from before the training diverged.",
                severity="error",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Magnitudes:
    """Of a constant's finite values: the largest |x|, whether all beyond FP16 are mask fillers, and what is lost."""

    largest: float
    masks: bool
    nonzero: int
    lost: int

    @classmethod
    def of(cls, chunks: Iterator[Array]) -> _Magnitudes:
        largest, masks, nonzero, lost = 0.0, True, 0, 0
        for chunk in chunks:
            values = chunk[np.isfinite(chunk)]
            sizes = np.abs(values)
            largest = max(largest, float(sizes.max(initial=0)))
            masks = masks and bool((values[sizes > LARGEST] < _MASK).all())
            nonzero += int(np.count_nonzero(sizes))
            lost += int(np.count_nonzero((sizes > 0) & (sizes <= SMALLEST)))
        return cls(largest=largest, masks=masks, nonzero=nonzero, lost=lost)


def constant_findings(model: onnx.ModelProto, folder: Path) -> Iterator[Finding]:
    """Yield the constants that FP16 would turn into infinity or into 0; `folder` is where external data lie."""
    owners = _owners(model.graph)
    found = {name: _Magnitudes.of(weight_chunks(tensor, folder)) for name, tensor in _floats(model.graph)}
    yield from _too_large({name: sizes for name, sizes in found.items() if sizes.largest > LARGEST}, owners)
    partly: dict[str, _Magnitudes] = {}
    for name, sizes in found.items():
        if 0 < sizes.lost < sizes.nonzero:
            partly[name] = sizes
        elif sizes.lost:
            held = f"holds {sizes.largest:.3g}" if sizes.nonzero == 1 else "lies below 3e-8"
            yield Finding(
                kind="fp16 constant",
                what=f"constant {name!r} {held}, which is 0 in FP16",
                where=owners.get(name, name),
                fix="Where it divides, raise it to 1e-7 or more; or `mmtrt build --fp16 --keep` its module.",
            )
    if partly:
        yield _lost(partly, owners)


def _too_large(found: Mapping[str, _Magnitudes], owners: Mapping[str, str]) -> Iterator[Finding]:
    masks = [name for name, sizes in found.items() if sizes.masks]
    if masks:
        yield Finding(
            kind="fp16 constant",
            what=f"masks are filled with numbers beyond FP16's {LARGEST:.0f}, by {_count(len(masks), 'constant')}",
            where=_places(masks, owners),
            fix="Nothing is to be done: `mmtrt build` clamps those that reach a softmax.",
            severity="note",
        )
    for name, sizes in found.items():
        if not sizes.masks:
            yield Finding(
                kind="fp16 constant",
                what=f"constant {name!r} reaches {sizes.largest:.3g}, and FP16 ends at {LARGEST:.0f}",
                where=owners.get(name, name),
                fix="`mmtrt build --fp16` keeps what reads it in FP32; for more speed, scale it in the module.",
            )


def _lost(partly: Mapping[str, _Magnitudes], owners: Mapping[str, str]) -> Finding:
    lost, of = sum(m.lost for m in partly.values()), sum(m.nonzero for m in partly.values())
    return Finding(
        kind="fp16 constant",
        what=f"FP16 rounds {lost} of {of} values to 0, in {_count(len(partly), 'constant')}",
        where=_places(sorted(partly, key=lambda name: -partly[name].lost / partly[name].nonzero), owners),
        fix="Harmless in sums beside larger weights; where they divide, keep the module in FP32 with --keep.",
        severity="note",
    )


def _floats(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    for tensor in graph.initializer:
        if tensor.data_type in _FLOATS:
            yield tensor.name, tensor
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.HasField("t") and attribute.t.data_type in _FLOATS:
                yield node.output[0], attribute.t


def _owners(graph: onnx.GraphProto) -> dict[str, str]:
    """Return for each value the module, and the line, of the first node that takes it."""
    owners: dict[str, str] = {}
    for node in graph.node:
        notes = {entry.key: entry.value for entry in node.metadata_props}
        place = " at ".join(filter(None, (notes.get(MODULE_KEY), notes.get(SOURCE_KEY)))) or node.name
        for name in node.input:
            owners.setdefault(name, place)
    return owners


def _places(names: list[str], owners: Mapping[str, str]) -> str:
    places = list(dict.fromkeys(owners.get(name, name) for name in names))
    rest = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
    return ", ".join(places[:_SHOWN]) + rest


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
