"""Which sizes a benchmark runs at: those that the model names, those that a scenario asks for."""

from __future__ import annotations

from collections.abc import Mapping

from mmtrt.bench.scenarios import Scenario
from mmtrt.errors import UsageError
from mmtrt.tensors import Feeds, ModelSpec

__all__ = ["batch_name", "batch_of", "check_sizes", "scenario_sizes", "size_names"]


def size_names(spec: ModelSpec) -> list[str]:
    """Return the names of a model's sizes, sorted."""
    return sorted({dim for tensor in spec.inputs for dim in tensor.shape if isinstance(dim, str)})


def check_sizes(spec: ModelSpec, sizes: Mapping[str, int | None]) -> None:
    """Raise UsageError where a size is unknown to the model, or outside its range; None is any size."""
    names = size_names(spec)
    for name, size in sizes.items():
        if name not in names:
            raise UsageError(f"the model has no size {name!r}", fix=f"Its sizes are {', '.join(names) or 'fixed'}.")
        if size is not None and name in spec.ranges and not spec.ranges[name][0] <= size <= spec.ranges[name][2]:
            low, _, high = spec.ranges[name]
            raise UsageError(
                f"{name} = {size} is outside the profile's {low} to {high}", fix="Measure at a size within it."
            )


def batch_name(spec: ModelSpec) -> str | None:
    """Return the name of the batch: `batch`, else what all inputs' first axes share; None where it is fixed."""
    if "batch" in size_names(spec):
        return "batch"
    firsts = {tensor.shape[0] for tensor in spec.inputs if tensor.shape}
    first = next(iter(firsts)) if len(firsts) == 1 else None
    return first if isinstance(first, str) else None


def batch_of(spec: ModelSpec, feeds: Feeds) -> int:
    """Return how many samples a run of these inputs has: the size of the batch, 1 where nothing tells one."""
    name = batch_name(spec)
    for tensor in spec.inputs:
        if name is not None and name in tensor.shape and tensor.name in feeds:
            return int(feeds[tensor.name].shape[tensor.shape.index(name)])
    return _fixed_batch(spec) if name is None else 1


def _fixed_batch(spec: ModelSpec) -> int:
    firsts = {tensor.shape[0] for tensor in spec.inputs if tensor.shape}
    first = next(iter(firsts)) if len(firsts) == 1 else None
    return first if isinstance(first, int) else 1


def scenario_sizes(scenario: Scenario, spec: ModelSpec, given: Mapping[str, int | None]) -> tuple[dict[str, int], int]:
    """Return the sizes that a scenario asks for, and how many runs make one of its queries.

    `given` are the sizes that the user chose, None where they are swept. UsageError where these, or the model, leave
    the scenario no way.
    """
    if scenario.samples is None:
        return {}, 1
    name = batch_name(spec)
    low, _, high = spec.ranges.get(name, (1, 1, 1)) if name is not None else (_fixed_batch(spec),) * 3
    if scenario.samples == 0:
        # What was asked for is as good: the largest batch is not always the fastest.
        return ({} if name is None or name in given else {name: high}), 1
    fits = [size for size in range(low, high + 1) if scenario.samples % size == 0]
    if not fits:
        raise UsageError(
            f"{scenario.name} sends {_samples(scenario)} a query, and the model takes "
            f"{low if low == high else f'{low} to {high}'} a run",
            fix="Export or build it with a batch that begins at 1.",
        )
    size = max(fits)
    if name is not None and name in given and given[name] != size:
        raise UsageError(
            f"{scenario.name} sends {_samples(scenario)} a query, {size} a run: the batch is not free",
            fix=f"Leave {name} out of --sweep and --shapes, or measure with --scenario latency or offline.",
        )
    return ({} if name is None else {name: size}), scenario.samples // size


def _samples(scenario: Scenario) -> str:
    return "1 sample" if scenario.samples == 1 else f"{scenario.samples} samples"
