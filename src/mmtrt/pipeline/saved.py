"""Outputs that were saved earlier, as a side of a check: golden samples, Polygraphy's JSON, a recorded reference."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np

from mmtrt.artifacts import directory_digest, file_digest, finite_number, key_of, read_json
from mmtrt.errors import InputError, MeasurementError, SampleError
from mmtrt.parity.stress import KINDS, SATURATED, How, Named, StressCase
from mmtrt.runtimes.saved import SavedRunner
from mmtrt.samples import OUTPUT, Sample, SampleSet, checked, open_set, split_label, with_prefix
from mmtrt.samples.polygraphy import is_run_outputs, read_run_outputs, split_rows
from mmtrt.tensors import Array, ModelSpec, TensorSpec, array_digest

__all__ = [
    "RECORD",
    "RECORD_SCHEMA",
    "Saved",
    "SavedCase",
    "as_rows",
    "call_prefix",
    "common_rows",
    "is_saved",
    "open_saved",
    "pair",
]

RECORD_SCHEMA = "mmtrt.record/1"
RECORD = "record.json"
_STACKED = {".npz", ".safetensors"}
_ROW = "row"


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedCall:
    """One run of a recorded reference on a hard case: the digest of its feeds, and why there are no outputs, if so."""

    feeds: str
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedCase:
    """A recorded hard case: what a `StressCase` has, its feeds and the outputs of each run in a file.

    `fed` is the digest of the feeds.
    """

    named: tuple[Named, ...]
    sizes: Mapping[str, int]
    how: How
    fed: str
    file: Path
    calls: tuple[SavedCall, ...]

    def case(self) -> StressCase:
        """Return the case with its feeds; InputError where its file is missing, broken or altered."""
        feeds, _ = split_label(_one(self.file))
        if array_digest(feeds) != self.fed:
            raise InputError(f"{self.file} was altered", fix="Record the reference again.")
        return StressCase(named=self.named, sizes=self.sizes, feeds=feeds, how=self.how)

    def answers_to(self, other: SavedCase) -> bool:
        """Tell whether the reference was run on another record's very feeds."""
        return any(call.feeds == other.fed for call in self.calls)

    def answer(self, index: int) -> dict[str, Array]:
        """Return the outputs of one run; MeasurementError where the reference gave none."""
        if self.calls[index].error:
            raise MeasurementError(self.calls[index].error)
        return with_prefix(_one(self.file), call_prefix(index))


def call_prefix(index: int) -> str:
    """Return what the names of one run's outputs begin with in a case's file."""
    return f"{OUTPUT}{index}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """Saved outputs: rows of them in order, without the batch axis, and what is known of how they came to be.

    `samples` holds inputs, labels and outputs; None where there are outputs alone. `kinds` names the kinds of hard
    cases that were asked for when it was recorded, of which a model may have none.
    """

    what: str
    key: str
    runs: str
    spec: ModelSpec
    outputs: Callable[[], Iterable[Mapping[str, Array]]]
    samples: SampleSet | None = None
    precision: str = ""
    budget: Mapping[str, float]
    note: str = ""
    cases: tuple[SavedCase, ...] = ()
    kinds: tuple[str, ...] = ()


def is_saved(text: str) -> bool:
    """Tell whether a side names saved outputs: a folder, a stacked file of samples, or a JSON of Polygraphy."""
    path = Path(text)
    return path.is_dir() or (path.suffix in {*_STACKED, ".json"} and path.is_file())


def open_saved(text: str) -> Saved:
    """Open saved outputs; InputError where a file holds none."""
    path = Path(text)
    if (path / RECORD).is_file():
        return _recorded(path)
    if path.suffix == ".json":
        return _of_polygraphy(path)
    samples = open_set(text)
    first = next(iter(samples))
    if not with_prefix(first, OUTPUT):
        raise InputError(
            f"{text} holds samples without outputs",
            fix=f"A side of a check needs outputs, under keys that start with {OUTPUT!r}: `mmtrt record` writes them.",
        )
    about = read_json(path / "set.json") if (path / "set.json").is_file() else {}
    runs = about.get("runs") or about.get("source")
    return Saved(
        what=text,
        key=samples.key,
        runs=f"saved outputs of {runs}" if runs else "saved outputs",
        spec=_shown_spec(first, str(about.get("source", "")), str(about.get("module_digest", ""))),
        outputs=lambda: (with_prefix(sample, OUTPUT) for sample in samples),
        samples=samples if split_label(first)[0] else None,
        note=f"written by mmtrt {about['mmtrt']}" if "mmtrt" in about else "",
        budget={},
    )


def _shown_spec(sample: Sample, source: str, digest: str) -> ModelSpec:
    """Tell names and dtypes from a sample; every size may differ from sample to sample."""
    inputs, _ = split_label(sample)
    return ModelSpec(
        inputs=tuple(
            TensorSpec(
                name=name,
                dtype=str(array.dtype),
                shape=("batch", *(f"{name}_{axis}" for axis in range(1, array.ndim + 1))),
            )
            for name, array in inputs.items()
        ),
        outputs=(),
        source=source,
        digest=digest,
    )


def _of_polygraphy(path: Path) -> Saved:
    if not is_run_outputs(path):
        raise InputError(
            f"{path} holds no outputs of Polygraphy",
            fix="`polygraphy run --save-outputs` writes such a file; inputs belong under --samples.",
        )
    name, iterations = read_run_outputs(path)
    rows = [row for number, i in enumerate(iterations) for row in split_rows(i, f"{path}: iteration {number}")]
    if not rows:
        raise InputError(f"{path} holds no outputs", fix="Save those of at least one iteration.")
    return Saved(
        what=str(path),
        key=file_digest(path),
        runs=f"saved outputs of Polygraphy's {name}",
        spec=ModelSpec(inputs=(), outputs=()),
        outputs=lambda: rows,
        budget={},
    )


# ------------------------------------------------------------------------------------------ a recorded reference


def _recorded(folder: Path) -> Saved:
    about = read_json(folder / RECORD)
    if not isinstance(about, dict) or about.get("schema") != RECORD_SCHEMA:
        raise InputError(f"{folder / RECORD} is no {RECORD_SCHEMA}", fix="Record the reference again.")
    try:
        samples = open_set(str(folder / "samples"))
        return Saved(
            what=str(folder),
            key=key_of({"record": file_digest(folder / RECORD), "arrays": directory_digest(folder, "*.npz")}),
            runs=f"recorded outputs of {about['runs']}",
            spec=ModelSpec.from_json(about["spec"]),
            outputs=lambda: (with_prefix(sample, OUTPUT) for sample in samples),
            samples=replace(samples, source=str(about["samples"]["source"]), on_data=bool(about["samples"]["on_data"])),
            precision=str(about["precision"]),
            budget={str(key): finite_number(bound) for key, bound in about["budget"].items()},
            note=f"recorded from {about['what']} by mmtrt {about['mmtrt']}",
            cases=tuple(_case(folder, row) for row in about["stress"]),
            kinds=tuple(about["kinds"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise InputError(
            f"{folder / RECORD} can't be read: {type(error).__name__}: {error}", fix="Record the reference again."
        ) from error


def _case(folder: Path, row: Mapping[str, Any]) -> SavedCase:
    name = str(row["file"])
    if Path(name).name != name:
        raise ValueError(f"the file {name!r} does not lie beside it")
    if row["how"] not in get_args(How):
        raise ValueError(f"{row['how']!r} is no way to run a case")
    return SavedCase(
        named=tuple(_named(one) for one in row["named"]),
        sizes={str(size): int(value) for size, value in row["sizes"].items()},
        how=row["how"],
        fed=str(row["feeds"]),
        file=folder / "stress" / name,
        calls=tuple(SavedCall(feeds=str(call["feeds"]), error=str(call["error"])) for call in row["calls"]),
    )


def _named(row: Mapping[str, Any]) -> Named:
    kind, allowance = str(row["kind"]), str(row["allowance"])
    if kind not in KINDS or allowance not in {"", SATURATED}:
        raise ValueError(f"there is no stress {allowance or kind!r}")
    return Named(kind, str(row["name"]), str(row["note"]), allowance)


def _one(file: Path) -> dict[str, Array]:
    """Read one recorded case; SampleError where its file is missing or broken."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise SampleError(f"{file} can't be read: {error}", fix="Record the reference again.") from error


# ------------------------------------------------------------------------------------- samples and their outputs


def as_rows(samples: SampleSet, spec: ModelSpec) -> SampleSet:
    """Part feeds of several events, as `polygraphy run --save-inputs` writes them, into samples."""
    if Path(samples.source).suffix != ".json":
        return samples

    def read() -> Iterator[Sample]:
        for number, sample in enumerate(samples):
            inputs, _ = split_label(sample)
            whole = all(t.name in inputs and inputs[t.name].ndim == len(t.shape) for t in spec.inputs)
            yield from split_rows(inputs, f"{samples.source}: iteration {number}") if whole else [sample]

    return replace(samples, read=read, read_inputs=None, count=None)


def common_rows(sides: Sequence[Saved]) -> tuple[SampleSet, ModelSpec]:
    """Return stand-ins for the samples of sides that hold outputs alone: their rows are matched by order."""
    count = sum(1 for _ in sides[0].outputs())
    spec = ModelSpec(inputs=(TensorSpec(name=_ROW, dtype="int64", shape=("batch",)),), outputs=())
    samples = SampleSet(
        source="the order of the rows",
        key=json.dumps([side.key for side in sides]),
        read=lambda: ({_ROW: np.asarray(index, dtype=np.int64)} for index in range(count)),
    )
    return samples, spec


def pair(saved: Saved, samples: SampleSet, spec: ModelSpec, *, partly: bool = False) -> SavedRunner:
    """Return a runner that answers for samples: by their inputs where those were saved, else by their order.

    By order there must be as many rows as samples, or `partly`, at least; SampleError where there aren't.
    """

    def by_inputs(own: SampleSet) -> Iterator[tuple[Mapping[str, Array], Mapping[str, Array]]]:
        for sample in checked(own, spec):
            yield split_label(sample)[0], with_prefix(sample, OUTPUT)

    def by_order() -> Iterator[tuple[Mapping[str, Array], Mapping[str, Array]]]:
        rows = list(saved.outputs())
        found = [split_label(sample)[0] for sample in checked(samples, spec)]
        if len(found) != len(rows) and not (partly and len(found) < len(rows)):
            raise SampleError(
                f"{saved.what} holds the outputs of {len(rows)} samples, and {samples.source} has {len(found)}",
                fix="They are matched by their order: give the very samples that the outputs were saved for.",
            )
        return zip(found, rows, strict=False)

    own = saved.samples
    return SavedRunner(
        saved.what,
        saved.runs,
        spec.inputs,
        rows=by_order if own is None else lambda: by_inputs(own),
        calls={call.feeds: partial(kept.answer, i) for kept in saved.cases for i, call in enumerate(kept.calls)},
    )
