"""A check as a table: a row per output, and in words what is out of budget or can't be told."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from mmtrt.report.cells import db, decimals, mark, new_table, percent
from mmtrt.report.stress import stress_view
from mmtrt.results import CheckResult, OutputResult

__all__ = ["check_view", "failures"]

_HEADINGS = ("SQNR dB", "cosine", "max abs", "explained %", "agrees %", "not finite")

_OF_HEADS = {
    "probability_distance": "distance",
    "rank_correlation": "rank",
    "worst_explained_variance": "worst",
    "box_iou": "IoU",
}
"""Metrics of a kind of head, beside what it was taken for; JSON has these and more of all."""


def check_view(check: CheckResult) -> RenderableType:
    """One verdict: a row per output, the main metrics; a share of what agrees with its 95% interval."""
    table = new_table(f"{check.candidate.what} against {check.reference.what}, {check.samples} samples")
    table.add_column("output")
    for heading in _HEADINGS:
        table.add_column(heading, justify="right")
    for heading in ("head", "task", "verdict"):
        table.add_column(heading)
    for name, output in check.outputs.items():
        table.add_row(Text(name), *_output_row(output))
    what = Text(f"{check.candidate.runs} against {check.reference.runs}")
    notes = [Text(f"output {name!r} is {output.note}") for name, output in check.outputs.items() if output.note]
    cached = [Text("nothing had changed, the verdict is the stored one")] if check.cached else []
    return Group(table, what, *notes, *failures(check), *stress_view(check.stress), *cached)


def failures(check: CheckResult) -> list[Text]:
    """Say what is out of budget, and what too few samples leave open: file, output, metric, value and bound."""
    return [
        Text(f"{check.candidate.what}: output {name!r}: {why}", style="red" if output.verdict == "fail" else "yellow")
        for name, output in check.outputs.items()
        for why in output.why
    ]


def _output_row(output: OutputResult) -> list[str | Text]:
    metrics = output.metrics
    return [
        db(metrics),
        decimals(metrics["cosine"], ".6f"),
        decimals(metrics["max_abs"], ".3g"),
        percent(metrics.get("explained_variance")),
        Text(_agreement(output)),
        decimals(metrics["non_finite"], "d"),
        Text(_head(output)),
        Text("\n".join(_task(output, name) for name in output.task)),
        mark(output.verdict),
    ]


def _agreement(output: OutputResult) -> str:
    """Phrases where there are some, else values or the largest of each row."""
    for name in ("phrase_agreement", "value_agreement", "argmax_agreement"):
        share = output.metrics.get(name)
        if share is not None:
            return " ".join(filter(None, (percent(share), _between(output, name, ".1f"))))
    return ""


def _head(output: OutputResult) -> str:
    """What the output was taken for, and a metric that goes with it; nothing where nobody said."""
    if not output.kind:
        return ""
    shown = [f"{word} {output.metrics[name]:.3g}" for name, word in _OF_HEADS.items() if _has(output, name)]
    return ": ".join(filter(None, (output.kind, ", ".join(shown))))


def _has(output: OutputResult, name: str) -> bool:
    return output.metrics.get(name) is not None


def _task(output: OutputResult, name: str) -> str:
    shown = f"{name} {percent(output.task[name])} ({percent(output.reference_task[name])})"
    interval = _between(output, f"{name}_drop", ".2f")
    return f"{shown}, drop {interval}" if interval else shown


def _between(output: OutputResult, name: str, form: str) -> str:
    """The 95% interval of a share or a drop, in hundredths."""
    if name not in output.intervals:
        return ""
    low, high = output.intervals[name]
    return f"[{100 * low:{form}}, {100 * high:{form}}]"
