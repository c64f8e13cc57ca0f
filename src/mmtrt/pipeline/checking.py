"""The parity stage: candidates against a reference over a set, cached by all that it depends on."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmtrt.artifacts import read_json, write_json
from mmtrt.errors import InputError, SampleError
from mmtrt.parity.budget import Budget, default_budget
from mmtrt.parity.compare import Side, compare
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.sides import Subject, cannot_run, open_subject
from mmtrt.results import CheckResult, OutputResult, Ran, plain
from mmtrt.samples import LABEL, SampleSet, batches, checked, open_set, with_prefix

__all__ = ["check_files", "check_stage", "default_samples", "not_run"]

_BATCH = 32


def default_samples(*texts: str) -> str:
    """Return the set that lies beside the first ONNX or engine that has one: `<stem>.calib`, else `<stem>.golden`."""
    for text in texts:
        path = Path(text)
        stem = path.name
        while stem:
            for suffix in ("calib", "golden"):
                folder = path.with_name(f"{stem}.{suffix}")
                if folder.is_dir():
                    return str(folder)
            # vqa.int8.engine, vqa.int8, vqa
            stem = stem.rpartition(".")[0]
    raise SampleError(
        f"there are no samples beside {' or '.join(texts)}", fix="Name a set with --samples; `mmtrt export` writes one."
    )


def check_files(
    context: Context,
    candidate: str,
    against: str,
    samples: SampleSet | None = None,
    budget: Budget | None = None,
    *,
    count: int | None = None,
) -> CheckResult:
    """Check one file or source against another, over the samples given, else `count` of those that lie beside.

    `budget` comes before the budget that the candidate carries. Task metrics that a budget holds to a drop are
    measured where the samples carry labels; where they don't, a budget that was given is refused, and what the
    candidate carries of such is left out, with a note.
    """
    subject, reference = open_subject(candidate), open_subject(against)
    # What stands on the sides comes first: without it, no samples would help.
    opened = samples if samples is not None else open_set(default_samples(candidate, against), count=count)
    wanted = dict(budget or subject.budget or default_budget(subject.precision))
    labels = with_prefix(next(iter(opened)), LABEL)
    metrics: dict[str, list[str]] = {}
    for key in [key for key in wanted if key.endswith("_drop")]:
        output, _, metric = key.rpartition(":")
        if not budget and not (output in labels if output else labels):
            del wanted[key]
            context.note(f"the samples carry no labels for {output or 'any output'!r}: {key} is not judged")
        else:
            for name in [output] if output else labels:
                metrics.setdefault(name, []).append(metric.removesuffix("_drop"))
    # Where nothing of a carried budget can be judged, the default is: a check never passes for want of a bound.
    budgets = {subject.precision: wanted or default_budget(subject.precision)}
    return check_stage(context, reference, [subject], opened, budgets=budgets, metrics=metrics)[0]


def check_stage(
    context: Context,
    reference: Subject,
    candidates: Sequence[Subject],
    samples: SampleSet,
    *,
    budgets: Mapping[str, Budget] | None = None,
    metrics: Mapping[str, Sequence[str]] | None = None,
) -> list[CheckResult]:
    """Compare each candidate with the reference over the set.

    `budgets`, by precision, come before the budget that a candidate carries itself, and that before the default.
    """
    given = budgets or {}
    sides = [
        Side(
            what=subject.what,
            runner=subject.exact(),
            precision=subject.precision,
            budget=given.get(subject.precision) or subject.budget or default_budget(subject.precision),
        )
        for subject in candidates
    ]
    for subject in candidates:
        _same_inputs(reference, subject)
    context.stage(f"parity of {', '.join(side.precision for side in sides)} against {reference.what}")
    parts = {
        "reference": reference.key,
        "candidates": [subject.key for subject in candidates],
        "names": [reference.what, *(subject.what for subject in candidates)],
        "samples": samples.key,
        "budgets": [dict(side.budget) for side in sides],
        "metrics": plain(metrics or {}),
        "versions": [_version(name) for name in ("onnxruntime", "torch")],
    }
    # The candidates' spec knows limits and ranges; a source may not.
    spec = max((subject.spec for subject in candidates), key=lambda s: len(s.limits) + len(s.ranges))

    def work(folder: Path) -> None:
        given_batches = batches(checked(samples, spec, note=context.note), spec, size=_BATCH)
        side = Side(what=reference.what, runner=reference.exact(), precision=reference.precision)
        results = compare(
            side, sides, given_batches, metrics=metrics, progress=lambda n: context.stage(f"parity: {n} samples")
        )
        write_json(folder / "result.json", [result.to_json() for result in results])

    folder, cached = context.cache.run("parity", parts, work)
    return [replace(_from_json(row), cached=cached) for row in read_json(folder / "result.json")]


def _version(package: str) -> str:
    """The version of a package that may be absent, and that need not be loaded for this."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _same_inputs(reference: Subject, candidate: Subject) -> None:
    ours = {t.name: t.dtype for t in reference.spec.inputs}
    theirs = {t.name: t.dtype for t in candidate.spec.inputs}
    if not theirs.items() <= ours.items():
        raise InputError(
            f"{candidate.what} takes {', '.join(map(str, candidate.spec.inputs))}; "
            f"{reference.what} takes {', '.join(map(str, reference.spec.inputs))}",
            fix="Compare two builds of the same model.",
        )


def not_run(engine: Path, precision: str, reference: Ran) -> CheckResult:
    """Return the row of an engine that was built and could not run here: no number, no verdict."""
    why = cannot_run(engine) or "it was not asked for"
    return CheckResult(
        verdict="not run",
        candidate=Ran(what=str(engine), runs="", precision=precision, note=why),
        reference=reference,
        samples=0,
        outputs={},
    )


_METRICS = ("sqnr_db", "cosine", "max_abs", "rel_l2", "argmax_agreement", "non_finite")


def _from_json(data: Mapping[str, Any]) -> CheckResult:
    outputs = {
        name: OutputResult(
            metrics={metric: row[metric] for metric in _METRICS},
            task=row["task"],
            reference_task=row["reference_task"],
            budget=row["budget"],
            verdict=row["verdict"],
            why=tuple(row["why"]),
        )
        for name, row in data["outputs"].items()
    }
    return CheckResult(
        verdict=data["verdict"],
        candidate=Ran(**data["candidate"]),
        reference=Ran(**data["reference"]),
        samples=data["samples"],
        outputs=outputs,
    )
