"""What is checked before a sample is used; each error names the sample and the input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches

import numpy as np

from mmtrt.errors import SampleError
from mmtrt.samples.core import LABEL, Sample, split_label
from mmtrt.tensors import Array, ModelSpec, TensorSpec, format_shape

__all__ = ["checked"]


def checked(
    samples: Iterable[Sample], spec: ModelSpec, *, note: Callable[[str], None] = lambda _: None
) -> Iterator[dict[str, Array]]:
    """Yield samples that fit the model, labels kept; SampleError names the sample and the input.

    A narrower integer or another float type is cast, and told once per input through `note`.
    """
    told: set[str] = set()
    for index, sample in enumerate(samples):
        inputs, _ = split_label(sample)
        _same_names(index, inputs, spec)
        fitted: dict[str, Array] = dict(sample)
        sizes: dict[str, tuple[int, str]] = {}
        for tensor in spec.inputs:
            array = _cast(index, tensor, inputs[tensor.name], told, note)
            array = _without_batch(index, tensor, array, sizes)
            _finite(index, tensor, array)
            _within(index, tensor, array, spec)
            fitted[tensor.name] = array
        yield fitted


def _same_names(index: int, inputs: Mapping[str, Array], spec: ModelSpec) -> None:
    wanted = {tensor.name for tensor in spec.inputs}
    for name in sorted(wanted - inputs.keys()):
        near = get_close_matches(name, inputs.keys() - wanted, n=1)
        raise SampleError(
            f"sample {index} lacks input {name!r}",
            fix=f"It has {near[0]!r}: rename it." if near else f"The model's inputs are {', '.join(sorted(wanted))}.",
        )
    for name in sorted(inputs.keys() - wanted):
        raise SampleError(
            f"sample {index} has {name!r}, which is no input of the model",
            fix=f"The model's inputs are {', '.join(sorted(wanted))}; a label's key starts with {LABEL!r}.",
        )


def _cast(index: int, tensor: TensorSpec, array: Array, told: set[str], note: Callable[[str], None]) -> Array:
    target = np.dtype(tensor.dtype)
    if array.dtype == target:
        return array
    both_float = array.dtype.kind == "f" and target.kind == "f"
    both_int = array.dtype.kind in "iub" and target.kind in "iu"
    fits = both_float
    if both_int:
        cast = array.astype(target)
        # A sign that was lost or won on the way comes back on the way back.
        fits = np.array_equal(cast.astype(array.dtype), array) and np.array_equal(cast < 0, array < 0)
    if not fits:
        raise SampleError(
            f"sample {index}: input {tensor.name!r} is {array.dtype}, the model takes {tensor.dtype}",
            fix=f"Convert it to {tensor.dtype} where the sample is made.",
        )
    if tensor.name not in told:
        told.add(tensor.name)
        note(f"input {tensor.name!r} is {array.dtype} in the samples and is cast to {tensor.dtype}")
    return array.astype(target)


def _without_batch(index: int, tensor: TensorSpec, array: Array, sizes: dict[str, tuple[int, str]]) -> Array:
    shape = tensor.shape
    if array.ndim == len(shape) and shape and array.shape[0] == 1:
        array = array[0]
    row = shape[1:]
    if array.ndim != len(row):
        raise SampleError(
            f"sample {index}: input {tensor.name!r} has shape ({format_shape(array.shape)}), "
            f"the model takes ({format_shape(row)}) beside the batch axis",
            fix="A sample has no batch axis, or one of size 1.",
        )
    for axis, (size, dim) in enumerate(zip(array.shape, row, strict=True)):
        if isinstance(dim, int) and size != dim:
            raise SampleError(
                f"sample {index}: input {tensor.name!r} has size {size} on axis {axis}, the model takes {dim}"
            )
        if isinstance(dim, str):
            before = sizes.setdefault(dim, (size, tensor.name))
            if before[0] != size:
                raise SampleError(
                    f"sample {index}: {dim!r} is {before[0]} in {before[1]!r} and {size} in {tensor.name!r}",
                    fix="Inputs of one sample must agree on the sizes that they share.",
                )
    return array


def _finite(index: int, tensor: TensorSpec, array: Array) -> None:
    if array.dtype.kind != "f":
        return
    finite = np.isfinite(array)
    if not finite.all():
        what = "NaN" if np.isnan(array).any() else "Inf"
        raise SampleError(
            f"sample {index}: input {tensor.name!r} holds {what} ({int((~finite).sum())} of {array.size} values)",
            fix="Check the preprocessing that made this sample.",
        )


def _within(index: int, tensor: TensorSpec, array: Array, spec: ModelSpec) -> None:
    if tensor.name in spec.limits and array.size:
        low, high = spec.limits[tensor.name]
        smallest, largest = int(array.min()), int(array.max())
        if smallest < low or largest > high:
            worst = smallest if smallest < low else largest
            raise SampleError(
                f"sample {index}: input {tensor.name!r} holds {worst}, the model's table has {low} to {high}",
                fix="Is this the tokenizer that the model was trained with?",
            )
    for axis, dim in enumerate(tensor.shape[1:]):
        if isinstance(dim, str) and dim in spec.ranges:
            low, _, high = spec.ranges[dim]
            if not low <= array.shape[axis] <= high:
                raise SampleError(
                    f"sample {index}: input {tensor.name!r} has {dim} = {array.shape[axis]}, "
                    f"outside the profile's {low} to {high}",
                    fix=f"Widen the range of {dim!r}, or leave the sample out.",
                )
