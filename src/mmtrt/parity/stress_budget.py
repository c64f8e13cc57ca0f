"""What a candidate may differ by in a hard case: `KIND/METRIC` and `KIND/OUTPUT:METRIC` in a budget, else a default.

An output's default is its precision's, or its own `sqnr_db` bound over the samples where that is lower, less an
allowance for the kind: who asks less of the samples is not asked more of their corners. What a budget says of a kind
comes before that default as it does over the samples: a bound on the error's size replaces it, another stands beside
it. No default holds a cosine: where the signal is small, it says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from mmtrt.errors import UsageError
from mmtrt.metrics.heads import UNKNOWN
from mmtrt.parity.budget import Budget, check_names, default_budget, held, of_kind, over, with_sqnr
from mmtrt.parity.stress import BATCH_INVARIANCE, DETERMINISM, KINDS, SATURATED, Named

__all__ = [
    "AGREEMENT",
    "ALLOWANCE_DB",
    "INVARIANCE_DB",
    "VALUES",
    "check_stress_names",
    "chosen_kinds",
    "split_budget",
    "stress_bounds",
]

_SHAPES = {"fp32": 10.0, "fp16": 10.0, "int8": 10.0}
_ODD = {"fp32": 10.0, "fp16": 12.0, "int8": 15.0}

ALLOWANCE_DB: Mapping[str, Mapping[str, float]] = {
    # Events as the set has them, but at other sizes: a case has few rows, and its noise scatters.
    "corner": _SHAPES,
    "batch": _SHAPES,
    "length": _SHAPES,
    "masked": _SHAPES,
    # Nothing that calibration saw; each value by itself is within what it saw.
    "zeroed": _ODD,
    "constant": _ODD,
    "extremes": _ODD,
    # A whole modality at the end of its range drives more inside than any event did: there INT8 saturates.
    SATURATED: {"fp32": 15.0, "fp16": 12.0, "int8": 23.0},
}
"""dB that a case of a kind may be worse than the samples' bound, by precision: decision 0030 has the measurements."""

INVARIANCE_DB: Mapping[str, float] = {"fp32": 80.0, "fp16": 50.0, "int8": 30.0}
"""A side held to itself differs by rounding in another order; in INT8 a value beside a step may take the next one."""

VALUES = "value_agreement"

AGREEMENT: Mapping[str, float] = {"fp32": 0.75, "fp16": 0.75, "int8": 0.5}
"""Share of equal integers: they have no error, only another value, and a case has few of them."""

_SILENCE_DB = -3.0
"""No default asks less: at 0 dB the candidate might as well say nothing, and be right within the signal."""


def chosen_kinds(only: Iterable[str], skipped: Iterable[str]) -> tuple[str, ...]:
    """Return the kinds of which cases are run: `only` these, or none of them, or all where it is empty, less `skipped`.

    UsageError at an unknown kind, and where "none" has company.
    """
    asked, left = list(only), list(skipped)
    for kind in (*asked, *left):
        if kind not in KINDS and not (kind == "none" and kind in asked):
            near = get_close_matches(kind, KINDS, n=1)
            raise UsageError(
                f"there is no stress {kind!r}",
                fix=f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(KINDS)}.",
            )
    if "none" in asked and len({*asked, *left}) > 1:
        raise UsageError("--stress none is given beside another kind", fix="Name the kinds to run, or none alone.")
    return tuple(kind for kind in KINDS if kind in (asked or KINDS) and kind not in left)


def split_budget(budget: Budget) -> tuple[dict[str, float], dict[str, float]]:
    """Return what of a budget is for the samples, and what is for hard cases; UsageError at an unknown kind.

    An output's name may hold a slash itself: what stands before one is a kind where it is called like one.
    """
    samples: dict[str, float] = {}
    stress: dict[str, float] = {}
    for key, bound in budget.items():
        kind, slash, rest = key.partition("/")
        if slash and kind in KINDS:
            stress[key] = bound
            continue
        # A metric has no slash: without an output, what stands before it can only be a kind.
        if slash and (":" not in rest or get_close_matches(kind, KINDS, n=1, cutoff=0.8)):
            near = get_close_matches(kind, KINDS, n=1)
            raise UsageError(
                f"the budget {key!r} is for no known kind of stress",
                fix=f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(KINDS)}.",
            )
        samples[key] = bound
    return samples, stress


def check_stress_names(stress: Budget, outputs: Iterable[str]) -> None:
    """Raise UsageError at an unknown output or metric, and at a metric that no hard case has: a drop needs labels."""
    names = list(outputs)
    for key, bound in stress.items():
        rest = key.partition("/")[2]
        if rest.endswith("_drop"):
            raise UsageError(
                f"the budget {key!r} is for a task metric, and a hard case has no labels",
                fix="Hold it to sqnr_db, cosine, max_abs, rel_l2, argmax_agreement or non_finite.",
            )
        check_names({rest: bound}, names)


def stress_bounds(
    named: Named, output: str, precision: str, samples: Budget, stress: Budget, *, dtype: str = "float32"
) -> dict[str, float]:
    """Return the bounds of an output in a case; `samples` and `stress` are the two budgets of a side."""
    own = {key.partition("/")[2]: bound for key, bound in stress.items() if key.partition("/")[0] == named.kind}
    integers = not dtype.startswith(("float", "bfloat"))
    told = of_kind(own, output, "integers" if integers else UNKNOWN)
    if integers and named.kind != DETERMINISM:
        default: Budget = {VALUES: AGREEMENT.get(precision, AGREEMENT["fp32"])}
    else:
        default = _default(named, output, precision, samples)
    return {"non_finite": 0.0, **over(with_sqnr(told, default.get("sqnr_db", math.inf)), default)}


def _default(named: Named, output: str, precision: str, samples: Budget) -> dict[str, float]:
    if named.kind == DETERMINISM:
        return {"max_abs": 0.0}
    if named.kind == BATCH_INVARIANCE:
        return {"sqnr_db": INVARIANCE_DB.get(precision, INVARIANCE_DB["fp32"])}
    usual = default_budget(precision)["sqnr_db"]
    own = held(samples, output, precision).get("sqnr_db", usual)
    allowance = ALLOWANCE_DB[named.allowance or named.kind]
    return {"sqnr_db": max(min(usual, own) - allowance.get(precision, allowance["fp32"]), _SILENCE_DB)}
