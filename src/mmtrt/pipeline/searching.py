"""The budget of a precision search, and the measuring of single layers, as stages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmtrt.errors import UsageError
from mmtrt.isolation import run_isolated
from mmtrt.onnx_files import model_spec, open_model
from mmtrt.parity.budget import Budget, check_heads, check_names
from mmtrt.parity.verdict import seen_out
from mmtrt.pipeline.context import Context
from mmtrt.precision.options import PrecisionOptions
from mmtrt.precision.sensitivity import Measured, Sensitivity, sensitivity
from mmtrt.samples import LABEL, SampleSet, with_prefix

__all__ = ["BudgetJudge", "sensitivity_stage", "task_metrics"]


@dataclass(frozen=True, slots=True)
class BudgetJudge:
    """Holds a measurement to a budget and the defaults of INT8, as `mmtrt check` does; shares as these samples show."""

    budget: Budget

    def __call__(self, measured: Measured) -> tuple[str, ...]:
        """Return what is out, with the output's name."""
        out: list[str] = []
        for name, comparison in measured.outputs.items():
            why = seen_out(name, comparison, self.budget, "int8", measured.drops.get(name, {}))
            out += [f"{name}: {one}" for one in why]
        return tuple(out)


def task_metrics(model: Path, budget: Budget, samples: SampleSet | None) -> dict[str, list[str]]:
    """Return the task metrics that a budget needs, by output; UsageError where it names what can't be judged."""
    if not budget:
        raise UsageError("a search needs a budget", fix="Give --budget METRIC=VALUE, as cosine=0.999.")
    spec = model_spec(open_model(model))
    outputs = [tensor.name for tensor in spec.outputs]
    labels = with_prefix(next(iter(samples)), LABEL) if samples is not None else {}
    wanted: dict[str, list[str]] = {}
    for key in budget:
        output, _, metric = key.rpartition(":")
        if metric.endswith("_drop"):
            for name in [output] if output else [name for name in outputs if name in labels]:
                if name in labels:
                    wanted.setdefault(name, []).append(metric.removesuffix("_drop"))
    check_heads(spec.heads, outputs)
    check_names(budget, outputs, wanted, heads=spec.heads)
    return wanted


def sensitivity_stage(
    context: Context, model: Path, options: PrecisionOptions, samples: str, count: int | None
) -> Sensitivity:
    """Measure layers and branches in a process of their own."""
    context.stage(f"INT8, layer by layer: {model.name}")
    found = run_isolated(
        sensitivity, model, options, samples=samples, count=count, what=f"the sensitivity of {model.name}"
    )
    for text in found.notes:
        context.note(text)
    return found
