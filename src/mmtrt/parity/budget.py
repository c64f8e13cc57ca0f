"""What a candidate may differ by: per output and metric.

A budget maps `output:metric` to a bound; `metric` alone is for every output. `sqnr_db`, `cosine` and
`argmax_agreement` are at least the bound; `max_abs`, `rel_l2`, `non_finite` and `<task metric>_drop` at most.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

from mmtrt.errors import UsageError
from mmtrt.metrics import TASK_METRICS, Comparison

__all__ = [
    "DEFAULTS",
    "Budget",
    "check_names",
    "default_budget",
    "for_output",
    "judged",
    "parse_budget",
    "violations",
]

Budget = Mapping[str, float]

AT_LEAST = ("sqnr_db", "cosine", "argmax_agreement")
AT_MOST = ("max_abs", "rel_l2", "non_finite", *(f"{name}_drop" for name in TASK_METRICS))

DEFAULTS: Mapping[str, Budget] = {
    # FP32 against FP32: rounding in another order, over a hundred layers at most 1e-4 of the output's norm.
    "fp32": {"sqnr_db": 80.0, "cosine": 0.99999},
    # FP16 has 11 bits: one rounding is 72 dB below full scale; a deep graph adds up to about 30 dB of it.
    "fp16": {"sqnr_db": 40.0, "cosine": 0.9999},
    # INT8 has 7 bits and a sign: 20 dB is an error of a tenth of the signal, beyond which heads start to flip.
    "int8": {"sqnr_db": 20.0, "cosine": 0.99},
}


def default_budget(precision: str) -> Budget:
    """Return the default for a precision; what can't be told is held to FP32's."""
    return DEFAULTS.get(precision, DEFAULTS["fp32"])


def parse_budget(texts: Iterable[str]) -> dict[str, float]:
    """Read `OUTPUT:METRIC=VALUE` or `METRIC=VALUE`; UsageError quotes what can't be read."""
    budget: dict[str, float] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        try:
            budget[key.strip()] = float(value) if equals else float("nan")
        except ValueError:
            raise UsageError(f"can't read the budget {text!r}", fix="Write OUTPUT:METRIC=VALUE.") from None
        if not budget[key.strip()] == budget[key.strip()]:
            raise UsageError(f"can't read the budget {text!r}", fix="Write OUTPUT:METRIC=VALUE.")
    return budget


def for_output(budget: Budget, output: str) -> dict[str, float]:
    """Return the bounds that hold for one output, by metric; its own come before those of every output."""
    general = {key: bound for key, bound in budget.items() if ":" not in key}
    # An output's name may hold colons itself, a metric's does not.
    own = {key.rpartition(":")[2]: bound for key, bound in budget.items() if key.rpartition(":")[:2] == (output, ":")}
    return {**general, **own}


def check_names(budget: Budget, outputs: Iterable[str], tasks: Mapping[str, Sequence[str]] | None = None) -> None:
    """Raise UsageError at an unknown output or metric: a budget that judges nothing must not pass.

    `tasks` names the task metrics that are measured, by output; a drop can be held only to one of these.
    """
    names = list(outputs)
    measured = tasks or {}
    for key in budget:
        output, colon, metric = key.rpartition(":")
        if metric not in AT_LEAST + AT_MOST:
            near = get_close_matches(metric, AT_LEAST + AT_MOST, n=1)
            raise UsageError(
                f"the budget {key!r} names no known metric",
                fix=f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(AT_LEAST + AT_MOST)}.",
            )
        if colon and output not in names:
            near = get_close_matches(output, names, n=1)
            raise UsageError(
                f"the budget {key!r} names no output of the model",
                fix=f"Did you mean {near[0]!r}?" if near else f"The outputs are {', '.join(names)}.",
            )
        task = metric.removesuffix("_drop")
        if task != metric and not any(task in measured.get(name, ()) for name in ([output] if colon else names)):
            raise UsageError(
                f"the budget {key!r} is for a task metric that is not measured",
                fix="A recipe names it under parity.metrics, and the samples carry labels.",
            )


def judged(
    output: str, comparison: Comparison, drops: Mapping[str, float], budget: Budget
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Return the bounds that hold for an output, and what of them is out; `drops` holds `<task metric>_drop`."""
    bounds = {
        metric: bound
        for metric, bound in {"non_finite": 0.0, **for_output(budget, output)}.items()
        # A drop that is held for every output is held where its metric is measured.
        if not metric.endswith("_drop") or metric in drops
    }
    measured = {
        # JSON has no infinity, and a perfect match passes every bound.
        "sqnr_db": comparison.sqnr_db,
        "cosine": comparison.cosine,
        "max_abs": comparison.max_abs,
        "rel_l2": comparison.rel_l2,
        "non_finite": float(comparison.non_finite),
        "argmax_agreement": math.nan if comparison.argmax_agreement is None else comparison.argmax_agreement,
    }
    return bounds, violations(measured, drops, bounds)


def violations(
    metrics: Mapping[str, float], drops: Mapping[str, float], budget: Mapping[str, float]
) -> tuple[str, ...]:
    """Return what is out of budget, in words; a metric that is missing or NaN is out."""
    out = []
    for metric, bound in budget.items():
        value = drops.get(metric) if metric.endswith("_drop") else metrics.get(metric)
        if value is None:
            out.append(f"{metric} was not measured")
        elif metric in AT_LEAST and not value >= bound:
            out.append(f"{metric} {value:.5g} is below {bound:g}")
        # A difference of shares like 0.993 - 0.992 is not exactly 0.001: a millionth of slack, no more.
        elif metric in AT_MOST and not value <= bound + (1e-9 if metric.endswith("_drop") else 0.0):
            out.append(f"{metric} {value:.5g} is above {bound:g}")
    return tuple(out)
