"""What the terminal says of a check beside its tables: why it has no numbers, how it drifted, what was no data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from mmtrt.results import CheckResult

__all__ = ["by_place", "outcome_lines", "unheld"]

_VARIES = ("explained_variance", "worst_explained_variance")
"""What takes samples to tell, and is held by default once there are enough."""


def outcome_lines(check: CheckResult) -> list[Text]:
    """Return the lines, none where there is nothing to say."""
    lines = []
    if check.note:
        lines.append(Text(f"{check.verdict}: {check.note}", style="red"))
    for side, ran in (("candidate", check.candidate), ("reference", check.reference)):
        if ran.note and ran.note != check.note:
            lines.append(Text(f"{side} {ran.what}: {ran.note}"))
    if not check.sample_set.get("on_data", True):
        lines.append(Text("the samples were drawn at random: they are no data"))
    lines += [Text(text, style="yellow") for text in unheld(check)]
    if check.drift is not None:
        worse, better = check.drift["worse"], check.drift["better"]
        count = f"{len(worse)} worse, {len(better)} better" if worse or better else "none"
        lines.append(Text(f"drift from {check.drift['baseline']}: {count}"))
        for way, rows, style in (("worse", worse, "red"), ("better", better, "green")):
            lines += [Text(f"{way}: {where}: {why}", style=style) for where, why in by_place(rows).items()]
    return lines


def unheld(check: CheckResult) -> list[str]:
    """Say which outputs are not held to what varies from sample to sample, since too few were there to tell."""
    return [
        f"output {name!r} is not held to {metric}: {check.samples} samples are too few to tell"
        for name, output in check.outputs.items()
        for metric in _VARIES
        if output.metrics.get(metric) is not None and metric not in output.budget and not output.why
    ]


def by_place(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Join what drifted at one place: the metrics of one output move together."""
    found: dict[str, str] = {}
    for row in rows:
        found[row["where"]] = "; ".join(filter(None, (found.get(row["where"]), row["why"])))
    return found
