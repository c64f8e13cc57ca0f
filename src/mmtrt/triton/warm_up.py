"""Golden samples that Triton runs before it says that a model is ready."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from mmtrt.samples import Sample
from mmtrt.tensors import Array, ModelSpec, TensorSpec, resize_array
from mmtrt.triton.pbtxt import Message, Word
from mmtrt.triton.shapes import Batching, data_type, row_of

__all__ = ["WarmUp", "raw_bytes", "requests", "safe_name", "warm_ups"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUp:
    """One `model_warmup`: the inputs of one request, which Triton repeats up to `batch_size`; 1 without batching.

    `files` maps an input to the file in `warmup/` that holds its values, row by row, little-endian.
    """

    name: str
    batch_size: int
    tensors: Mapping[str, TensorSpec]
    arrays: Mapping[str, Array]
    files: Mapping[str, str]

    def message(self) -> Message:
        """Return it as the configuration has it."""
        inputs = [
            Message(
                (
                    ("key", name),
                    (
                        "value",
                        Message(
                            (
                                ("data_type", Word(f"TYPE_{data_type(self.tensors[name])}")),
                                ("dims", array.shape),
                                ("input_data_file", self.files[name]),
                            )
                        ),
                    ),
                )
            )
            for name, array in self.arrays.items()
        ]
        return Message((("name", self.name), ("batch_size", self.batch_size), *(("inputs", one) for one in inputs)))

    def contents(self) -> dict[str, bytes]:
        """Return what the files hold, by name."""
        return {self.files[name]: raw_bytes(array) for name, array in self.arrays.items()}


def raw_bytes(array: Array) -> bytes:
    """Return an array's values as Triton takes them: in rows, little-endian, a byte for a truth value."""
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()


def safe_name(name: str) -> str:
    """Return a tensor's name as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:64]


def requests(samples: Iterable[Sample], spec: ModelSpec, batch: Batching, count: int) -> list[dict[str, Array]]:
    """Return the inputs of single requests: `count` samples, as they come; fewer where there are fewer.

    A model without batching gets its first axis at its usual size, the sample repeated. What has a batch axis alone
    gets an axis of size 1, as its `dims` say.
    """

    def of(sample: Sample, tensor: TensorSpec) -> Array:
        array = np.asarray(sample[tensor.name], dtype=tensor.dtype)
        if batch:
            return array if row_of(tensor, batch) else array.reshape(1)
        first = tensor.shape[0]
        size = first if isinstance(first, int) else spec.ranges[first][1]
        return resize_array(array[None], (size, *array.shape))

    return [{tensor.name: of(sample, tensor) for tensor in spec.inputs} for sample in islice(samples, count)]


def warm_ups(given: Sequence[Mapping[str, Array]], spec: ModelSpec, batch_sizes: Sequence[int]) -> tuple[WarmUp, ...]:
    """Return each request alone, and the first at each further batch size."""
    tensors = {tensor.name: tensor for tensor in spec.inputs}
    found = []
    for index, arrays in enumerate(given):
        files = {name: f"{index:05d}-{place}-{safe_name(name)}" for place, name in enumerate(arrays)}
        for size in batch_sizes if index == 0 else batch_sizes[:1]:
            name = f"sample-{index}-batch-{size}"
            found.append(WarmUp(name=name, batch_size=size, tensors=tensors, arrays=arrays, files=files))
    return tuple(found)
