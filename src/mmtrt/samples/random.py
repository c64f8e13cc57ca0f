"""Samples drawn at random, for smoke tests only: every artifact made from them says so."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mmtrt.samples.core import Sample, SampleSet
from mmtrt.tensors import Array, ModelSpec, TensorSpec, resolve_shape

__all__ = ["RANDOM", "random_set"]

RANDOM = "random"
_SEED = 0


def random_set(spec: ModelSpec, count: int) -> SampleSet:
    """Normal floats; integers within the model's tables where it has some, else 1, as in a mask that hides nothing."""

    def read() -> Iterator[Sample]:
        rng = np.random.default_rng(_SEED)
        spans = spec.ranges
        for _ in range(count):
            sizes = {name: int(rng.integers(span[0], span[2] + 1)) for name, span in spans.items()}
            yield {tensor.name: _draw(rng, tensor, spec, sizes) for tensor in spec.inputs}

    return SampleSet(source=RANDOM, key=f"{RANDOM}:{_SEED}:{count}", read=read, count=count, on_data=False)


def _draw(rng: np.random.Generator, tensor: TensorSpec, spec: ModelSpec, sizes: dict[str, int]) -> Array:
    shape = resolve_shape(
        tensor.shape[1:], {**dict.fromkeys((d for d in tensor.shape if isinstance(d, str)), 1), **sizes}
    )
    dtype = np.dtype(tensor.dtype)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    if tensor.name in spec.limits:
        low, high = spec.limits[tensor.name]
        return rng.integers(low, high + 1, size=shape).astype(dtype)
    return np.ones(shape, dtype=dtype)
