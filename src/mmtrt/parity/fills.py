"""What the inputs of a modality hold in a hard case: a mask that hides, zeros, one value, the ends of a range."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mmtrt.samples import Sample
from mmtrt.tensors import Array, ModelSpec, TensorSpec

__all__ = ["Fills", "Spans", "constant", "extremes", "masked", "stretched", "zeroed"]

Fills = Mapping[str, float]
"""Inputs that hold one value throughout; the others stay as the samples have them."""

Spans = Mapping[str, tuple[float, float]]
"""The smallest and the largest value of float inputs, by name."""


def masked(spec: ModelSpec) -> Iterator[tuple[str, Fills]]:
    """Yield each modality that has a mask, with the mask hiding all of it; the rest of it stays."""
    for modality, names in spec.modalities.items():
        fills = {name: float(spec.masks[name]) for name in names if name in spec.masks}
        if fills:
            yield modality, fills


def zeroed(spec: ModelSpec, samples: Sequence[Sample]) -> Iterator[tuple[str, Fills]]:
    """Yield each modality with zeros for its numbers and the lowest legal value for its integers; masks stay."""
    for modality, tensors in _modalities(spec):
        fills = {t.name: 0.0 if _is_float(t) else float(_lowest(t, spec, samples)) for t in tensors}
        yield modality, fills


def constant(spec: ModelSpec, samples: Sequence[Sample]) -> Iterator[tuple[str, Fills]]:
    """Yield each modality with the samples' mean for its numbers and their commonest integer; masks stay.

    It is the commonest beside the lowest legal one, which stands for padding as a rule and which `zeroed` has.
    """
    for modality, tensors in _modalities(spec):
        fills = {}
        for tensor in tensors:
            values = _flat(tensor, samples)
            if _is_float(tensor):
                fills[tensor.name] = float(values.mean(dtype=np.float64)) if values.size else 0.0
                continue
            found, counts = np.unique(values, return_counts=True)
            counts[found == _lowest(tensor, spec, samples)] = 0
            fills[tensor.name] = float(found[counts.argmax()]) if found.size else 0.0
        yield modality, fills


def extremes(spec: ModelSpec, samples: Sequence[Sample], calibrated: Spans) -> Iterator[tuple[str, Spans, str]]:
    """Yield each modality that has numbers, with their ranges, and where these are from.

    `calibrated` are ranges that a calibration saw; an input that it lacks takes that of the samples.
    """
    for modality, tensors in _modalities(spec):
        names = [tensor.name for tensor in tensors if _is_float(tensor)]
        if names:
            spans = {t.name: calibrated.get(t.name) or _span(_flat(t, samples)) for t in tensors if t.name in names}
            seen = all(name in calibrated for name in names)
            source = "as calibration saw it" if seen else f"as the {len(samples)} samples at hand show it"
            told = ", ".join(f"{name} from {low:.4g} to {high:.4g}" for name, (low, high) in spans.items())
            yield modality, spans, f"{told}, {source}"


def stretched(array: Array, low: float, high: float) -> Array:
    """Return each row of a float input stretched from one end of a range to the other; one without contrast stays."""
    rows = array.reshape(len(array), -1).astype(np.float64)
    least, most = rows.min(axis=1, keepdims=True), rows.max(axis=1, keepdims=True)
    contrast = np.where(most > least, most - least, 1.0)
    moved = np.where(most > least, low + (rows - least) * ((high - low) / contrast), rows)
    return np.clip(moved, low, high).reshape(array.shape).astype(array.dtype)


def _modalities(spec: ModelSpec) -> Iterator[tuple[str, list[TensorSpec]]]:
    """What of each modality is no mask; an input that belongs to none is one by itself."""
    kept = {tensor.name: tensor for tensor in spec.inputs if not _masks(tensor.name, spec)}
    told = {name for names in spec.modalities.values() for name in names}
    alone = {name: (name,) for name in kept if name not in told}
    for modality, names in {**spec.modalities, **alone}.items():
        tensors = [kept[name] for name in names if name in kept]
        if tensors:
            yield modality, tensors


def _masks(name: str, spec: ModelSpec) -> bool:
    """Whether an input masks: as told, or by its name, since one that nobody told of must not be filled by accident."""
    return name in spec.masks or "mask" in name.lower()


def _is_float(tensor: TensorSpec) -> bool:
    return tensor.dtype.startswith(("float", "bfloat"))


def _flat(tensor: TensorSpec, samples: Sequence[Sample]) -> Array:
    return np.concatenate([np.asarray(sample[tensor.name]).reshape(-1) for sample in samples])


def _lowest(tensor: TensorSpec, spec: ModelSpec, samples: Sequence[Sample]) -> int:
    """The lowest value that the model's table has; without one, the lowest that a sample has: that is legal."""
    if tensor.name in spec.limits:
        return spec.limits[tensor.name][0]
    return int(_flat(tensor, samples).min(initial=np.iinfo(np.int64).max))


def _span(values: Array) -> tuple[float, float]:
    return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
