"""Task metrics of one side, by output: what the outputs are worth against labels."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from mmtrt.errors import InputError
from mmtrt.metrics import TaskMetric, make_task_metric
from mmtrt.metrics.resampling import drop_interval
from mmtrt.tensors import Array

__all__ = ["Tasks"]


class Tasks:
    """Task metrics of one side, by output; `wanted` names them."""

    def __init__(self, wanted: Mapping[str, Sequence[str]]) -> None:
        self._metrics: dict[str, dict[str, TaskMetric]] = {
            output: {name: make_task_metric(name) for name in names} for output, names in wanted.items()
        }

    def add(self, outputs: Mapping[str, Array], labels: Mapping[str, Array], without: Collection[str] = ()) -> None:
        """Add a batch; InputError where labels are missing or don't belong to an output. `without` leaves some out."""
        for output, metrics in self._metrics.items():
            if output not in labels:
                raise InputError(
                    f"the set has no labels for output {output!r}",
                    fix=f"Its samples need the key 'label.{output}'.",
                )
            for name, metric in metrics.items() if output not in without else ():
                try:
                    metric.add(outputs[output], labels[output])
                except ValueError as error:
                    raise InputError(
                        f"{name} of output {output!r}: {error}",
                        fix="Name a metric under parity.metrics that is meant for the output's shape.",
                    ) from None

    def values(self, output: str) -> dict[str, float]:
        """Return each metric of an output by name."""
        return {name: metric.value for name, metric in self._metrics.get(output, {}).items()}

    def drop_intervals(self, output: str, candidate: Tasks) -> dict[str, tuple[float, float]]:
        """Return the 95% interval of `<metric>_drop` from this side to a candidate, of the same events."""
        found = {}
        for name, metric in self._metrics.get(output, {}).items():
            interval = drop_interval(metric, candidate._metrics[output][name])
            if interval is not None:
                found[f"{name}_drop"] = interval
        return found
