"""A benchmark as a picture: how each row's times are distributed, and over a sweep how time and throughput grow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmtrt.artifacts import whole_file
from mmtrt.report.bench import sizes_text
from mmtrt.report.picture import check_picture
from mmtrt.results import BenchResult, BenchRow

__all__ = ["bench_picture"]

_MOST = 24
"""Distributions in one picture."""
_BINS = 80
_LABELLED = 12
"""Lines that a legend has room for."""


def bench_picture(bench: BenchResult, path: Path) -> None:
    """Draw the distributions with p50 and p99 marked, and the curves of a sweep; UsageError as `check_picture`."""
    check_picture(path)
    from matplotlib.figure import Figure

    rows = [row for row in bench.results if len(row.times.get("latency_ms", ())) > 0]
    shown = rows[:_MOST]
    swept = [name for name in _swept(bench.results) if len({row.sizes[name] for row in bench.results}) > 1]
    heights = [3.2 if swept else 0.01, 1.2 * max(len(shown), 1) + 1]
    figure = Figure(figsize=(10, sum(heights)), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=heights, squeeze=False)[:, 0]
    if swept:
        _curves(above.subplots(1, 2), bench.results, swept[0])
    axes = below.subplots(max(len(shown), 1), 1, squeeze=False)[:, 0]
    for axis, row in zip(axes, shown, strict=False):
        _distribution(axis, row, [other for other in rows if other.sizes == row.sizes])
    more = f"; the first {_MOST} of {len(rows)} rows" if len(rows) > _MOST else ""
    axes[-1].set_xlabel(f"ms; dashed: p50, dotted: p99{more}")
    with whole_file(path) as part:
        figure.savefig(part, format=path.suffix[1:])


def _swept(rows: Sequence[BenchRow]) -> list[str]:
    return list(rows[0].sizes) if rows else []


def _distribution(axis: Any, row: BenchRow, group: Sequence[BenchRow]) -> None:
    """Draw one histogram, on the scale of all rows at its shape; what lies far beyond their p99 is counted instead."""
    times = np.asarray(row.times["latency_ms"])
    low = min(min(other.times["latency_ms"]) for other in group)
    high = max(*(low + 1.25 * (other.p99_ms - low) for other in group), low * 1.001 + 1e-6)
    axis.hist(times[times <= high], bins=np.linspace(low, high, _BINS + 1), color="C0")
    axis.set_xlim(low, high)
    axis.axvline(row.p50_ms, color="black", linestyle="--", linewidth=1)
    axis.axvline(row.p99_ms, color="black", linestyle=":", linewidth=1)
    beyond = int((times > high).sum())
    at = f" at {sizes_text(row)}" if row.sizes else ""
    flags = f"{row.clock}, CUDA graph {'on' if row.cuda_graph else 'off'}, transfers {'in' if row.transfers else 'out'}"
    told = f"p50 {row.p50_ms:.3f}, p99 {row.p99_ms:.3f} ms, n {row.n}" + (f", {beyond} beyond" if beyond else "")
    axis.set_title(f"{row.file}{at}: {told}  ({flags})", loc="left", fontsize="small", parse_math=False)
    axis.set_yticks([])


def _curves(axes: Any, rows: Sequence[BenchRow], name: str) -> None:
    """Draw median and throughput over the first sweep, a line for each file and each point of the other sweeps."""
    groups: dict[str, list[BenchRow]] = {}
    for row in rows:
        rest = ", ".join(f"{key} {size}" for key, size in row.sizes.items() if key != name)
        groups.setdefault(f"{row.file} {rest}".strip(), []).append(row)
    for label, group in groups.items():
        ordered = sorted(group, key=lambda row: row.sizes[name])
        sizes = [row.sizes[name] for row in ordered]
        axes[0].plot(sizes, [row.p50_ms for row in ordered], marker="o", label=label)
        axes[1].plot(sizes, [row.samples_per_s for row in ordered], marker="o", label=label)
    for axis, title in zip(axes, ("p50, ms", "samples a second"), strict=True):
        axis.set_title(title, loc="left", fontsize="medium")
        axis.set_xlabel(name)
        axis.set_ylim(bottom=0)
    if len(groups) <= _LABELLED:
        axes[0].legend(fontsize="x-small")
