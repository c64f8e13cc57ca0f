"""What a candidate may differ by: per output and metric.

A budget maps `output:metric` to a bound; `metric` alone is for every output. Metrics of `AT_LEAST` are at least the
bound, those of `AT_MOST` at most. What is not said is as `parity.defaults` has it: no output is held to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches

from mmtrt.errors import UsageError
from mmtrt.metrics import TASK_METRICS
from mmtrt.metrics.heads import KINDS, UNKNOWN, metrics_of
from mmtrt.parity.defaults import DEFAULTS, default_budget, head_defaults

__all__ = [
    "DEFAULTS",
    "MAGNITUDE",
    "PHRASES",
    "SHARES",
    "Budget",
    "check_heads",
    "check_names",
    "default_budget",
    "for_output",
    "held",
    "layered",
    "of_kind",
    "out_of_bound",
    "over",
    "parse_budget",
    "parse_heads",
    "violations",
    "with_sqnr",
]

Budget = Mapping[str, float]

PHRASES = "phrase_agreement"
"""Share of events whose phrase is the reference's, token by token to its end: of what generates."""

SHARES = ("argmax_agreement", "value_agreement", PHRASES)
"""Shares of what agrees: samples show them with an interval."""

MAGNITUDE = ("sqnr_db", "cosine", "rel_l2", "max_abs", "max_rel")
"""Ways to say how large the error is as a whole: one that is given stands for the default ones."""

AT_LEAST = (
    "sqnr_db",
    "cosine",
    "explained_variance",
    "worst_explained_variance",
    "rank_correlation",
    "box_iou",
    *SHARES,
)
AT_MOST = (
    "max_abs",
    "max_rel",
    "rel_l2",
    "error_p50",
    "error_p99",
    "error_p999",
    "probability_distance",
    "non_finite",
    *(f"{name}_drop" for name in TASK_METRICS),
)

_OF_A_KIND = frozenset().union(*KINDS.values())
"""Metrics that not every output has."""


def parse_budget(texts: Iterable[str]) -> dict[str, float]:
    """Read `OUTPUT:METRIC=VALUE` or `METRIC=VALUE`; UsageError quotes what can't be read."""
    budget: dict[str, float] = {}
    for text in texts:
        # An output's name may hold an equals sign, a metric's and a number do not.
        key, _, value = text.rpartition("=")
        metric = key.strip().rpartition(":")[2]
        try:
            bound = float(value)
        except ValueError:
            bound = math.nan
        if not metric or "=" in metric or not math.isfinite(bound):
            raise UsageError(f"can't read the budget {text!r}", fix="Write OUTPUT:METRIC=VALUE.")
        budget[key.strip()] = bound
    return budget


def parse_heads(texts: Iterable[str]) -> dict[str, str]:
    """Read `OUTPUT=KIND`; UsageError quotes what can't be read, and names the nearest kind."""
    heads: dict[str, str] = {}
    for text in texts:
        # An output's name may hold an equals sign, a kind does not.
        output, equals, kind = (part.strip() for part in text.rpartition("="))
        if not equals or not output:
            raise UsageError(f"can't read the head {text!r}", fix="Write OUTPUT=KIND.")
        heads[output] = kind
    check_heads(heads, heads)
    return heads


def for_output(budget: Budget, output: str) -> dict[str, float]:
    """Return the bounds that are given for one output, by metric; its own come before those of every output."""
    general = {key: bound for key, bound in budget.items() if ":" not in key}
    # An output's name may hold colons itself, a metric's does not.
    own = {key.rpartition(":")[2]: bound for key, bound in budget.items() if key.rpartition(":")[:2] == (output, ":")}
    return {**general, **own}


def held(budget: Budget, output: str, precision: str, kind: str = UNKNOWN) -> dict[str, float]:
    """Return the bounds that hold for one output over a set: what is given, and the defaults for the rest.

    A bound on the error's size that is given replaces all default ones on it: 15 dB must not fail by the cosine that
    goes with 20. A cosine alone, which any scale passes, brings along the SQNR that it means. What is given for every
    output of a metric that only some kinds have holds for those.
    """
    own = of_kind(budget, output, kind)
    defaults = dict(head_defaults(precision, kind))
    own = with_sqnr(own, defaults.get("sqnr_db", math.inf))
    if "sqnr_db" in own and "explained_variance" in defaults:
        # Of an output without an offset, an error of this size leaves no more to explain.
        left = 1 - 10 ** (-max(own["sqnr_db"], -100.0) / 10)
        defaults["explained_variance"] = min(defaults["explained_variance"], left)
    return {"non_finite": 0.0, **over(own, defaults)}


def of_kind(budget: Budget, output: str, kind: str) -> dict[str, float]:
    """Return the bounds that are given for one output, less those for every output that its kind has not."""
    said = for_output(budget, output)
    return {m: b for m, b in said.items() if f"{output}:{m}" in budget or m not in _OF_A_KIND or m in metrics_of(kind)}


def with_sqnr(bounds: Budget, most_db: float) -> dict[str, float]:
    """Return bounds in which a cosine that is the only one on the error's size brings along the SQNR that it means.

    That is at most `most_db`, the default's.
    """
    alone = "cosine" in bounds and not any(metric in bounds for metric in MAGNITUDE if metric != "cosine")
    return {**bounds, **({"sqnr_db": min(_sqnr_of(bounds["cosine"]), most_db)} if alone else {})}


def over(nearer: Budget, farther: Budget) -> dict[str, float]:
    """Bounds of one output, by metric: what is said nearer to the user stands for what is said farther off."""
    sized = any(metric in MAGNITUDE for metric in nearer)
    return {**{m: bound for m, bound in farther.items() if not (sized and m in MAGNITUDE)}, **nearer}


def _sqnr_of(cosine: float) -> float:
    """The SQNR in dB of noise that turns a signal so far, less 3 dB: a true error may lie along the signal too."""
    turned = min(max(cosine, 0.01), 1 - 1e-12) ** 2
    return 10 * math.log10(turned / (1 - turned)) - 3


def layered(nearer: Budget, farther: Budget, outputs: Iterable[str]) -> Budget:
    """Return one budget of two: what the nearer one says of an output stands for what the farther one says of it."""
    if not nearer or not farther:
        return nearer or farther
    names = list(outputs)
    # What names no output is kept, to be refused.
    found = {k: b for k, b in {**farther, **nearer}.items() if ":" in k and k.rpartition(":")[0] not in names}
    for output in names:
        bounds = over(for_output(nearer, output), for_output(farther, output))
        found |= {f"{output}:{metric}": bound for metric, bound in bounds.items() if not _of_some(metric)}
    general = {key for key in nearer if ":" not in key}
    some = {key: b for key, b in farther.items() if _of_some(key) and key.rpartition(":")[2] not in general}
    return {**found, **some, **{key: bound for key, bound in nearer.items() if _of_some(key)}}


def _of_some(key: str) -> bool:
    """Whether not every output has a metric: one for every output holds where it is measured, and stays general."""
    return key.endswith("_drop") or key.rpartition(":")[2] in _OF_A_KIND


def check_names(
    budget: Budget,
    outputs: Iterable[str],
    tasks: Mapping[str, Sequence[str]] | None = None,
    *,
    phrases: Collection[str] = (),
    heads: Mapping[str, str] | None = None,
) -> None:
    """Raise UsageError at an unknown output or metric: a budget that judges nothing must not pass.

    `tasks` names the task metrics that are measured, by output; a drop can be held only to one of these. `phrases`
    names the outputs that phrases are generated from; `heads` says what outputs are: a metric can be held only of a
    kind that has it.
    """
    names = list(outputs)
    measured = tasks or {}
    kinds = heads or {}
    for key in budget:
        output, colon, metric = key.rpartition(":")
        if metric not in AT_LEAST + AT_MOST:
            raise UsageError(f"the budget {key!r} names no known metric", fix=_nearest(metric, AT_LEAST + AT_MOST))
        if colon and output not in names:
            raise UsageError(
                f"the budget {key!r} names no output of the model", fix=_nearest(output, names, "The outputs are")
            )
        meant = [output] if colon else names
        if metric == PHRASES and not (output in phrases if colon else phrases):
            raise UsageError(
                f"the budget {key!r} is for phrases, and {f'{output!r} generates' if colon else 'there are'} none",
                fix=f"It holds for {', '.join(phrases)}." if phrases else "It is for a pipeline with a step.",
            )
        if metric in _OF_A_KIND and not any(metric in _possible(kinds.get(name)) for name in meant):
            having = ", ".join(kind for kind, metrics in KINDS.items() if metric in metrics)
            raise UsageError(
                f"the budget {key!r} is for outputs of another kind",
                fix=f"{metric} is of {having}: a recipe says what an output is under parity.heads, a check by --head.",
            )
        task = metric.removesuffix("_drop")
        if task != metric and not any(task in measured.get(name, ()) for name in meant):
            raise UsageError(
                f"the budget {key!r} is for a task metric that is not measured",
                fix="A recipe names it under parity.metrics, and the samples carry labels.",
            )


def check_heads(heads: Mapping[str, str], outputs: Iterable[str]) -> None:
    """Raise UsageError at an unknown output or kind."""
    names = list(outputs)
    for name, kind in heads.items():
        if name not in names:
            raise UsageError(
                f"it is said what {name!r} is, and the model has no such output",
                fix=_nearest(name, names, "The outputs are"),
            )
        if kind not in KINDS:
            raise UsageError(f"{name!r} is said to be {kind!r}, which is no kind of head", fix=_nearest(kind, [*KINDS]))


def _possible(kind: str | None) -> Collection[str]:
    """What may be measured of a kind; None is an output of which not even the dtype is known."""
    return metrics_of(UNKNOWN) | metrics_of("integers") if kind is None else metrics_of(kind)


def _nearest(word: str, known: Sequence[str], says: str = "Known are") -> str:
    near = get_close_matches(word, known, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"{says} {', '.join(known)}."


def violations(
    metrics: Mapping[str, float], drops: Mapping[str, float], budget: Mapping[str, float]
) -> tuple[str, ...]:
    """Return what is out of budget, in words; a metric that is missing or NaN is out."""
    out = []
    for metric, bound in budget.items():
        value = drops.get(metric) if metric.endswith("_drop") else metrics.get(metric)
        why = f"{metric} was not measured" if value is None else out_of_bound(metric, value, bound)
        out += [why] if why else []
    return tuple(out)


def out_of_bound(metric: str, value: float, bound: float) -> str:
    """Say in words what is out, empty where it is within; NaN is never within."""
    if metric in AT_LEAST and not value >= bound:
        return f"{metric} {value:.5g} is below {bound:g}"
    # A difference of shares like 0.993 - 0.992 is not exactly 0.001: a millionth of slack, no more.
    if metric in AT_MOST and not value <= bound + (1e-9 if metric.endswith("_drop") else 0.0):
        return f"{metric} {value:.5g} is above {bound:g}"
    return ""
