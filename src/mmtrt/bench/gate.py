"""A gate: whether a run is slower than an earlier one by more than is allowed, as far as two runs can tell."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from mmtrt.bench.doubts import NOISY_CV
from mmtrt.bench.statistics import Interval
from mmtrt.errors import InputError, UsageError
from mmtrt.results import BenchResult, BenchRow, plain
from mmtrt.tensors import format_shape

__all__ = ["Gate", "GateRow", "GateVerdict", "Key", "check_rows", "compare", "key_of", "parse_percent", "read_bench"]

GateVerdict = Literal["pass", "fail", "inconclusive"]
Key = tuple[str, str, str, str]
"""A row's file, precision, scenario and shapes."""
_SAME: Final = ("cpu", "cores", "system", "arch")
"""What makes two machines one, beside the device, which each row names in what ran."""
_AGAIN: Final = "Make the baseline again, with the same command, on this machine."
_VERSION = re.compile(r"\s*\b\d+(\.\d+)+\S*")


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRow:
    """One row against its earlier one. `ratio` is that of times, or of throughputs turned over: above 1 is slower."""

    file: str
    at: str
    figure: str
    before: float
    now: float
    ratio: float
    ci95: Interval
    verdict: GateVerdict
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """All rows against an earlier run; `notes` tell what else differs, as a runtime's version."""

    baseline: str
    limit: float
    verdict: GateVerdict
    rows: tuple[GateRow, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return what stands under `gate`."""
        return plain(asdict(self))  # type: ignore[no-any-return]


def parse_percent(text: str) -> float:
    """Return `3%` as 0.03; UsageError where it is no percentage above 0."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*%\s*", text)
    share = float(match[1]) / 100 if match else 0.0
    if not 0 < share < math.inf:
        raise UsageError(f"{text!r} is no percentage above 0", fix="Write it as 3%.")
    return share


def compare(before: BenchResult, now: BenchResult, *, limit: float, baseline: str) -> Gate:
    """Hold each row to its earlier one, by the number that its scenario is about.

    InputError where the machine, the device, the clock or the conditions differ, or a row has no counterpart.
    """
    current = {_key(row): row for row in now.results}
    check_rows(before, now.machine, list(current), baseline)
    earlier = {_key(row): row for row in before.results}
    pairs = [(earlier[key], row) for key, row in current.items()]
    for one, other in pairs:
        _same_conditions(one, other, baseline)
    rows = tuple(_held(one, other, limit) for one, other in pairs)
    verdicts = {row.verdict for row in rows}
    verdict: GateVerdict = "fail" if "fail" in verdicts else "inconclusive" if "inconclusive" in verdicts else "pass"
    notes = dict.fromkeys(f"{one.runs} then, {two.runs} now" for one, two in pairs if one.runs != two.runs)
    return Gate(baseline=baseline, limit=limit, verdict=verdict, rows=rows, notes=tuple(notes))


def check_rows(before: BenchResult, machine: Mapping[str, Any], keys: Sequence[Key], baseline: str) -> None:
    """Raise InputError where an earlier run is of another machine or of other rows: known before any measuring."""
    for name in _SAME:
        if before.machine.get(name) != machine.get(name):
            raise InputError(
                f"the baseline {baseline} is of another machine: its {name} is {before.machine.get(name)}, "
                f"this one's {machine.get(name)}",
                fix=_AGAIN,
            )
    earlier = [_key(row) for row in before.results]
    for told, found in ((f"the baseline {baseline}", earlier), ("this run", keys)):
        if len(set(found)) != len(found):
            raise InputError(f"{told} has a row twice: {_spoken(max(found, key=found.count))}", fix=_AGAIN)
    missing = [f"it has no {_spoken(key)}" for key in keys if key not in earlier]
    left = [f"this run has no {_spoken(key)}" for key in earlier if key not in keys]
    if missing or left:
        raise InputError(f"the baseline {baseline} is of other rows: {'; '.join([*missing, *left][:3])}", fix=_AGAIN)


def key_of(file: str, precision: str, scenario: str, shapes: Mapping[str, Sequence[int]]) -> Key:
    """Return what makes two rows the same row, wherever the files lie: a CI job checks out where it likes."""
    told = ",".join(f"{name}:{format_shape(shape)}" for name, shape in sorted(shapes.items()))
    return Path(file).name, precision, scenario, told


def _key(row: BenchRow) -> Key:
    return key_of(row.file, row.precision, row.scenario, row.shapes)


def _spoken(key: Key) -> str:
    name, *facts = key
    return f"{name} ({', '.join(filter(None, facts))})"


def _same_conditions(before: BenchRow, now: BenchRow, baseline: str) -> None:
    facts: dict[str, tuple[object, object]] = {
        # A version may rise: what it does to the time is what a gate is for.
        "ran on": (_VERSION.sub("", before.runs), _VERSION.sub("", now.runs)),
        "has the clock": (before.clock, now.clock),
        "has CUDA graphs": (before.cuda_graph, now.cuda_graph),
        "has transfers": (before.transfers, now.transfers),
        "has samples a query": (before.samples, now.samples),
        "is about": (before.figure, now.figure),
    }
    for words, (one, other) in facts.items():
        if one != other:
            raise InputError(f"{now.file} in the baseline {baseline} {words} {one}, this run {other}", fix=_AGAIN)


def _held(before: BenchRow, now: BenchRow, limit: float) -> GateRow:
    (old, old_ends), (new, new_ends) = _figure(before), _figure(now)
    if now.figure == "samples_per_s":
        # Less is worse: turned over, it is the time from sample to sample.
        old, new = 1 / old, 1 / new
        old_ends, new_ends = (1 / old_ends[1], 1 / old_ends[0]), (1 / new_ends[1], 1 / new_ends[0])
    ratio = new / old
    low = ratio * math.exp(-math.hypot(math.log(new / new_ends[0]), math.log(old_ends[1] / old)))
    high = ratio * math.exp(math.hypot(math.log(new_ends[1] / new), math.log(old / old_ends[0])))
    verdict, why = _verdict(ratio, (low, high), limit)
    doubt = _doubt(before, now, ratio, verdict, limit)
    if doubt:
        verdict, why = "inconclusive", f"{why}, and {doubt}"
    elif ratio < 1 - limit:
        why = f"{why}; a new baseline would hold what was won"
    at = ", ".join(f"{name} {size}" for name, size in now.sizes.items())
    return GateRow(
        file=now.file,
        at=at,
        figure=now.figure,
        before=_figure(before)[0],
        now=_figure(now)[0],
        ratio=ratio,
        ci95=(low, high),
        verdict=verdict,
        why=why,
    )


def _doubt(before: BenchRow, now: BenchRow, ratio: float, verdict: GateVerdict, limit: float) -> str:
    """Say why a verdict can't be believed, and what helps; nothing where it can."""
    if verdict == "fail" and _noisy(now):
        return "this machine was too noisy to believe: run it again when it is quieter"
    # Beside a baseline that something else slowed down, a regression would look like nothing.
    if _noisy(before) and (verdict == "fail" or (verdict == "pass" and ratio < 1 - limit)):
        return "the machine was too noisy to believe when the baseline was made: make it again"
    return ""


def _noisy(row: BenchRow) -> bool:
    # What else ran then may have made all of a run slower, which no interval of its own can know.
    return row.cv is not None and not row.cv <= NOISY_CV[row.clock]


def _figure(row: BenchRow) -> tuple[float, Interval]:
    """Return the number that a row is about, and its interval; InputError where it lacks one, or it is none."""
    value, ends = getattr(row, row.figure, None), row.figure_ci95
    numbers = [value, *(ends or ())]
    sound = [float(n) for n in numbers if isinstance(n, (int, float)) and 0 < n < math.inf]
    if len(sound) != 3:
        raise InputError(f"{row.file}: {row.figure} {value} with the interval {ends} can't be compared", fix=_AGAIN)
    return sound[0], (min(sound), max(sound))


def _verdict(ratio: float, ends: Interval, limit: float) -> tuple[GateVerdict, str]:
    """Judge a ratio: see docs/decisions/0040."""
    low, high = ends
    change = f"{abs(ratio - 1):.1%} {'slower' if ratio > 1 else 'faster'}"
    told = f"{change} (95%: {low - 1:+.1%} to {high - 1:+.1%}), allowed are {limit:.1%}"
    if ratio > 1 + limit:
        return ("fail", told) if low > 1 else ("inconclusive", f"{told}, and it may be chance: measure longer")
    if not high <= (1 + limit) * (1 + limit):
        return "inconclusive", f"{told}, and twice that could go unseen: measure longer, or on a quieter machine"
    return "pass", told


def read_bench(data: Any, path: str) -> BenchResult:
    """Read the JSON of an earlier benchmark; InputError where it is none, or not sound."""
    if not isinstance(data, Mapping) or data.get("schema") != "mmtrt.bench/1":
        told = data.get("schema") if isinstance(data, Mapping) else type(data).__name__
        raise InputError(f"the baseline {path} is no mmtrt.bench/1: {told}", fix="Take that of `mmtrt bench --json`.")
    try:
        found = BenchResult.from_json(data)
        sound = all(
            isinstance(text, str)
            for row in found.results
            for text in (row.file, row.runs, row.precision, row.scenario, row.figure)
        ) and isinstance(found.machine, Mapping)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"the baseline {path} can't be read: {type(error).__name__}: {error}", fix=_AGAIN) from error
    if not sound or not found.results:
        raise InputError(f"the baseline {path} has no sound row", fix=_AGAIN)
    return found
