"""The ranges of dynamic axes: told, guessed, narrowed to what PyTorch accepts; and inputs of any size."""

from __future__ import annotations

from collections.abc import Mapping

from mmtrt.errors import ModelError
from mmtrt.export.findings import Finding, Tell
from mmtrt.export.sources import Source
from mmtrt.runtimes.eager import EagerRunner
from mmtrt.tensors import Array, resize_array, resolve_shape

__all__ = ["corner_sizes", "example_sizes", "resize", "settle_ranges"]

Ranges = dict[str, tuple[int, int, int]]


def example_sizes(source: Source) -> dict[str, int]:
    """Return each named size as it is in the example inputs."""
    return {
        size: source.examples[name].shape[axis] for name, named in source.axes.items() for axis, size in named.items()
    }


def resize(source: Source, sizes: Mapping[str, int]) -> dict[str, Array]:
    """Repeat or cut the examples along their dynamic axes; values are never drawn at random.

    Token ids, boxes and indices have ranges that nobody told us, and the examples' values are known to be good.
    """
    usual = example_sizes(source)
    return {
        spec.name: resize_array(source.examples[spec.name], resolve_shape(spec.shape, {**usual, **sizes}))
        for spec in source.inputs
    }


def corner_sizes(ranges: Mapping[str, tuple[int, int, int]], which: int) -> dict[str, int]:
    """Return the smallest (0), usual (1) or largest (2) value of each size."""
    return {name: span[which] for name, span in ranges.items()}


def settle_ranges(source: Source, told: Mapping[str, tuple[int, int, int]], tell: Tell) -> Ranges:
    """Return a range for each named size: as told, else 1, the example's, twice that.

    Each end is tried on the module itself. An end that was told and that PyTorch refuses is a ModelError; an
    end that was guessed is narrowed, and told.
    """
    sizes = example_sizes(source)
    ranges: Ranges = {}
    for name, size in sizes.items():
        if name in told:
            ranges[name] = told[name]
        elif name in source.ranges:
            ranges[name] = source.ranges[name]
        else:
            ranges[name] = (1, size, 2 * size)
    for name in told:
        if name not in sizes:
            raise ModelError(
                f"a range is given for {name!r}, which names no dynamic axis",
                fix=f"The dynamic axes are {', '.join(sizes) or 'none'}.",
            )
    _usual(source, ranges)
    for name in sizes:
        known = name in told or name in source.ranges
        for end in (0, 2):
            ranges[name] = _settle_end(source, ranges, name, end, known=known, tell=tell)
    return ranges


def _usual(source: Source, ranges: Ranges) -> None:
    sizes = corner_sizes(ranges, 1)
    refusal = _refusal(source, sizes)
    if refusal:
        raise ModelError(
            f"{source.reference}: the module does not run at {_named(sizes)}: {refusal}",
            fix="Check the example inputs and the ranges.",
        )


def _settle_end(
    source: Source, ranges: Ranges, name: str, end: int, *, known: bool, tell: Tell
) -> tuple[int, int, int]:
    span = list(ranges[name])
    sizes = corner_sizes(ranges, 1)
    refusal = _refusal(source, {**sizes, name: span[end]})
    if not refusal:
        return ranges[name]
    if known:
        raise ModelError(
            f"{source.reference}: the module refuses {name} = {span[end]}: {refusal}",
            fix=f"Narrow the range of {name!r}, which is {span}.",
        )
    good, bad = span[1], span[end]
    while abs(good - bad) > 1:
        middle = (good + bad) // 2
        if _refusal(source, {**sizes, name: middle}):
            bad = middle
        else:
            good = middle
    tell(
        Finding(
            kind="narrowed range",
            what=f"the module refuses {name} = {span[end]}; its range ends at {good}",
            where=name,
            fix=f"Give the range of {name!r} yourself: the factory's `ranges`, or [model.ranges] in a recipe.",
        )
    )
    span[end] = good
    return (span[0], span[1], span[2])


def _named(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} = {size}" for name, size in sizes.items())


def _refusal(source: Source, sizes: Mapping[str, int]) -> str | None:
    feeds = resize(source, sizes)
    try:
        EagerRunner(source.module, source.inputs).infer(feeds)
    except Exception as error:  # noqa: BLE001 -- whatever the user's module raises is the answer
        return f"{type(error).__name__}: {error}"
    return None
