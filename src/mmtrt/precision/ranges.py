"""What a calibration pass saw, in a file that later passes add to: A and then B is calibrating on both.

Histograms add up, ranges take the larger one, and which rows are kept follows from the samples' checksums alone. A set
that is in the file already is not run again.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmtrt.artifacts import whole_file
from mmtrt.errors import InputError
from mmtrt.metrics.histogram import Histogram
from mmtrt.precision.observe import Observed
from mmtrt.precision.rows import Geometry

__all__ = ["Ranges", "load_ranges", "merged", "save_ranges"]

_SCHEMA = "mmtrt.ranges/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """What was seen, of which float model (its digest), and on which sets (their keys)."""

    seen: Observed
    model: str
    sets: tuple[str, ...]


def save_ranges(ranges: Ranges, path: Path) -> None:
    """Write a file, whole or not at all."""
    seen = ranges.seen
    arrays: dict[str, Any] = {}
    for index, histogram in enumerate(seen.histograms.values()):
        used = np.flatnonzero(histogram.counts)
        arrays[f"bins.{index}"], arrays[f"counts.{index}"] = used.astype(np.int32), histogram.counts[used]
    uses = []
    for index, ((name, how), (rows, count)) in enumerate(seen.rows.stored().items()):
        uses.append({"value": name, "how": asdict(how), "seen": seen.rows.seen.get((name, how), 0)})
        arrays[f"rows.{index}"], arrays[f"row_count.{index}"] = rows, count
    about = {
        "schema": _SCHEMA,
        "model": ranges.model,
        "sets": list(ranges.sets),
        "samples": seen.samples,
        "histograms": {name: histogram.amax for name, histogram in seen.histograms.items()},
        "amax": seen.amax,
        "uses": uses,
        "checksums": seen.rows.checksums(),
    }
    with whole_file(path) as part, part.open("wb") as stream:
        np.savez_compressed(stream, about=np.array(json.dumps(about)), **arrays)


def load_ranges(path: Path, *, model: str, like: Observed) -> Ranges:
    """Read a file for a model; `like` says which values and rows are asked for.

    InputError where the file is broken, of another model, or of another choice of layers.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            about = json.loads(str(data["about"]))
            _check(path, about, model, like)
            # What only a second pass saw is of that set alone.
            amax = {name: float(v) for name, v in about["amax"].items() if name in like.amax}
            seen = Observed(amax=amax, samples=int(about["samples"]))
            for index, (name, largest) in enumerate(about["histograms"].items()):
                seen.histograms[name] = Histogram()
                seen.histograms[name].counts[data[f"bins.{index}"]] = data[f"counts.{index}"]
                seen.histograms[name].amax = float(largest)
            stored = {
                (use["value"], _geometry(use["how"])): (data[f"rows.{i}"], data[f"row_count.{i}"], int(use["seen"]))
                for i, use in enumerate(about["uses"])
            }
            seen.rows = like.rows.like(about["checksums"], stored)
            return Ranges(seen=seen, model=model, sets=tuple(about["sets"]))
    except InputError:
        raise
    except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} holds no ranges that can be read: {type(error).__name__}: {error}", fix="Name another file."
        ) from error


def _geometry(how: dict[str, Any]) -> Geometry:
    windows = {name: tuple(map(int, how[name])) for name in ("kernel", "strides", "dilations", "pads")}
    return Geometry(axis=int(how["axis"]), **windows)


def _check(path: Path, about: dict[str, Any], model: str, like: Observed) -> None:
    if about["schema"] != _SCHEMA:
        raise InputError(f"{path} holds no ranges of this version of mmtrt", fix="Calibrate anew.")
    if about["model"] != model:
        raise InputError(f"{path} holds ranges of another model", fix="Give each model a file of its own.")
    if set(about["histograms"]) != set(like.histograms) or not set(like.amax) <= set(about["amax"]):
        raise InputError(
            f"{path} holds ranges for another choice of layers",
            fix="Use the --coverage, --keep and precision that it was made with, or another file.",
        )


def merged(first: Ranges, second: Ranges) -> Ranges:
    """Return what both saw; `first` is changed."""
    seen = first.seen
    for name, histogram in second.seen.histograms.items():
        seen.histograms[name].merge(histogram)
    seen.amax = {name: max(seen.amax.get(name, 0.0), amax) for name, amax in second.seen.amax.items()}
    seen.rows.merge(second.seen.rows)
    seen.samples += second.seen.samples
    sets: Sequence[str] = (*first.sets, *second.sets)
    return Ranges(seen=seen, model=first.model, sets=tuple(dict.fromkeys(sets)))
