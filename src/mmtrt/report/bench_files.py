"""The files that a benchmark leaves: rows as CSV, each run's time as CSV, a picture. Each appears whole, or not."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from mmtrt.artifacts import whole_file
from mmtrt.errors import UsageError
from mmtrt.report.bench import named, shapes_text
from mmtrt.results import BenchResult, BenchRow

__all__ = ["BenchFiles", "rows_csv", "write_times"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchFiles:
    """Where a benchmark's files go; None: it is not wanted. With `layers` a second picture lies beside `plot`."""

    csv: Path | None = None
    samples: Path | None = None
    plot: Path | None = None
    layers: bool = False

    @property
    def layers_plot(self) -> Path | None:
        """Where the picture of the branches' times goes: of `rows.png` it is `rows.layers.png`."""
        if self.plot is None or not self.layers:
            return None
        return self.plot.with_name(f"{self.plot.stem}.layers{self.plot.suffix}")

    def check(self, read: Sequence[str]) -> None:
        """Raise UsageError before any measuring, where a file can't be written by its name or its place.

        `read` is what is measured: none of that is written over.
        """
        places = {"--csv": self.csv, "--samples-out": self.samples, "--plot": self.plot}
        if self.plot is not None and self.plot.name:
            places["--plot with --layers"] = self.layers_plot
        known = {Path(one).resolve(): "what is read" for one in read}
        for flag, path in places.items():
            if path is None:
                continue
            if not path.name or path.is_dir():
                raise UsageError(f"{flag} names no file: {str(path)!r}", fix="Name one; its folder is made.")
            above = next(parent for parent in path.absolute().parents if parent.exists())
            if not above.is_dir() or not os.access(above, os.W_OK):
                why = "may not be written to" if above.is_dir() else "is no folder"
                raise UsageError(f"{flag} {path} can't be written: {above} {why}", fix="Choose another place.")
            other = known.setdefault(path.resolve(), flag)
            if other != flag:
                raise UsageError(f"{flag} would write over {path}: that is {other}", fix="Give another name.")
        if self.plot is not None:
            from mmtrt.report.picture import check_picture

            check_picture(self.plot)

    def write(self, bench: BenchResult) -> None:
        """Write what is wanted; MachineError where the disk is full or a place can't be written."""
        if self.csv is not None:
            _write(self.csv, rows_csv(bench.results))
        if self.samples is not None:
            with whole_file(self.samples) as part, part.open("w", encoding="utf-8", errors="backslashreplace") as out:
                write_times(bench.results, out)
        if self.plot is not None:
            from mmtrt.report.bench_picture import bench_picture

            bench_picture(bench, self.plot)
        told = [{**row.layers, "file": named(row)} for row in bench.results if row.layers]
        if self.layers_plot is not None and told:
            from mmtrt.report.layers_picture import layers_picture

            layers_picture(told, self.layers_plot)


def _write(path: Path, text: str) -> None:
    with whole_file(path) as part:
        part.write_bytes(text.encode("utf-8", errors="backslashreplace"))


def rows_csv(rows: Sequence[BenchRow]) -> str:
    """Return a line per row: the fields of the JSON, what holds more than one value spread over columns."""
    found = [dict(_cells(row)) for row in rows]
    text = io.StringIO()
    _csv(text, list(dict.fromkeys(name for cells in found for name in cells)), found)
    return text.getvalue()


def _cells(row: BenchRow) -> Iterator[tuple[str, Any]]:
    for name, value in row.to_json().items():
        yield from _SPREAD[name](value) if name in _SPREAD else ((name, value),)


def _interval(name: str) -> _Spread:
    return lambda ends: ((f"{name}_low", ends[0] if ends else None), (f"{name}_high", ends[1] if ends else None))


def _ratio(ratio: Mapping[str, Any] | None) -> Iterator[tuple[str, Any]]:
    yield "ratio_p50", (ratio or {}).get("p50")
    yield from _interval("ratio_ci95")((ratio or {}).get("ci95"))


def _telemetry(told: Mapping[str, Any] | None) -> Iterator[tuple[str, Any]]:
    for key, part in (("power_w", "mean"), ("sm_clock_mhz", "mean"), ("temperature_c", "max")):
        if told and told.get(key):
            yield f"{key}_{part}", told[key][part]
    if told:
        yield "energy_mj_per_query", told.get("energy_mj_per_query")


_Spread = Callable[[Any], Iterable[tuple[str, Any]]]
_SPREAD: Mapping[str, _Spread] = {
    "shapes": lambda shapes: (("shapes", shapes_text(shapes)),),
    "sizes": lambda sizes: ((f"size_{key}", size) for key, size in sizes.items()),
    "warnings": lambda texts: (("warnings", "; ".join(texts)),),
    "notes": lambda texts: (("notes", "; ".join(texts)),),
    "ratio": _ratio,
    "telemetry": _telemetry,
    "layers": lambda _: (),
    **{name: _interval(name) for name in ("p50_ci95_ms", "figure_ci95", "throughput_ci95")},
}
"""What a field that holds more than one value becomes."""


def write_times(rows: Sequence[BenchRow], stream: TextIO) -> None:
    """Write a line per run: the row's number and file, the run's number, and its times in ms."""
    names = list(dict.fromkeys(name for row in rows for name in row.times))
    lines = (
        {"row": number, "file": row.file, **{f"size_{key}": size for key, size in row.sizes.items()}, "run": run}
        | {name: series[run] for name, series in row.times.items()}
        for number, row in enumerate(rows)
        for run in range(row.n if row.times else 0)
    )
    sizes = list(dict.fromkeys(f"size_{key}" for row in rows for key in row.sizes))
    _csv(stream, ["row", "file", *sizes, "run", *names], lines)


def _csv(stream: TextIO, names: Sequence[str], lines: Iterable[Mapping[str, Any]]) -> None:
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
