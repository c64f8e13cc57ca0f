"""Samples of different lengths as one batch. Needs numpy only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmtrt.zoo.data.batches import Batch
from mmtrt.zoo.data.events import Sample

__all__ = ["chunks", "collate", "padded"]


def padded(sample: Sample, lengths: Mapping[str, int]) -> Sample:
    """Fill the last axis of the named arrays with 0 up to a length; ValueError where one is longer."""
    filled = dict(sample)
    for name, length in lengths.items():
        array = sample[name]
        extra = length - array.shape[-1]
        if extra < 0:
            raise ValueError(f"{name} is {array.shape[-1]} long, more than {length}")
        longer: NDArray[Any] = np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, extra)])
        filled[name] = longer
    return filled


def collate(samples: Sequence[Sample], lengths: Mapping[str, int]) -> Batch:
    """Stack samples, `{name: (B, ...)}`, after padding the named arrays; labels keep their prefix."""
    rows = [padded(sample, lengths) for sample in samples]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def chunks(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    """Cut a stream into lists of `size`, the last one shorter."""
    source = iter(samples)
    while chunk := list(islice(source, size)):
        yield chunk
