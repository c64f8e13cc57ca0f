"""The parity stage: candidates against a reference over a set, cached by all that it depends on."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mmtrt.artifacts import read_json, write_json
from mmtrt.errors import InputError, UsageError
from mmtrt.parity.budget import Budget, layered
from mmtrt.parity.compare import Side, compare
from mmtrt.parity.stress_budget import split_budget
from mmtrt.pipeline.baseline import read_baseline
from mmtrt.pipeline.chain_check import check_chain, names_chain
from mmtrt.pipeline.check_sides import CheckRequest, described, narrowed, open_sides, told_spec, with_samples
from mmtrt.pipeline.choosing import Fed, default_samples, opened_early
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.hard_cases import HardCases
from mmtrt.pipeline.replay import plan_cases
from mmtrt.pipeline.sides import Subject, cannot_run, is_source
from mmtrt.results import CheckResult, Ran, plain
from mmtrt.samples import LABEL, SampleSet, batches, checked, largest_batch, with_prefix

__all__ = ["CheckRequest", "check_files", "check_stage", "default_samples", "not_run", "versions"]

_BATCH = 32


def check_files(context: Context, request: CheckRequest) -> CheckResult:
    """Check one file or source against another, and tell the drift from the check in `baseline`, if there is one.

    InputError where the baseline is of another model or other samples; for the rest see `_check`.
    """
    if request.baseline is None:
        return _check(context, request)
    baseline = read_baseline(request.baseline, request.candidate)
    return baseline.compared(_check(context, request))


def _check(context: Context, request: CheckRequest) -> CheckResult:
    """Check one file or source against another, over a set of samples and the hard cases made from it.

    UsageError where a checkpoint is given and no side is a source. Task metrics that a budget holds to a drop are
    measured where the samples carry labels; where they don't, a budget that was given is refused, and what the
    candidate carries of such is left out, with a note.
    """
    candidate, against, checkpoint = request.candidate, request.against, request.checkpoint
    if names_chain(candidate):
        if request.samples is not None or checkpoint is not None:
            raise UsageError(
                f"{candidate} is a pipeline: it is checked over the golden events of {against}, with its own weights",
                fix="Leave --samples and --checkpoint out.",
            )
        return check_chain(
            context,
            candidate,
            against,
            budget=request.budget,
            heads=request.heads,
            stress=request.stress,
            count=request.count,
        )
    if checkpoint is not None and not (is_source(candidate) or is_source(against)):
        raise UsageError(
            "a checkpoint is given, and both sides are files", fix="They have their weights: leave --checkpoint out."
        )
    opened = opened_early(request.samples, request.count)
    sides = open_sides(request)
    if isinstance(sides, CheckResult):
        return sides
    # What stands on the sides comes first: without it, no samples would help.
    subject, reference, opened = with_samples(request, *sides, opened)
    if subject.saved is not None and not subject.precision and not request.budget:
        context.note(f"nobody tells the precision of {candidate}: it is held to FP32's budget")
    narrow = narrowed(subject.spec, reference.spec)
    if narrow:
        context.note(f"{candidate} takes less than its reference, and more is not checked: {narrow}")
    given, hard = split_budget(request.budget)
    _all_run(hard, request.stress)
    told, told_hard = split_budget(subject.budget)
    labels = with_prefix(next(iter(opened)), LABEL)
    carried = {key: bound for key, bound in told.items() if _labelled(key, labels)}
    for key in told.keys() - carried.keys():
        output = key.rpartition(":")[0]
        context.note(f"the samples carry no labels for {output or 'any output'!r}: {key} is not judged")
    budget = layered(given, carried, [tensor.name for tensor in subject.spec.outputs])
    metrics: dict[str, list[str]] = {}
    for key in sorted(budget):
        output, _, metric = key.rpartition(":")
        for name in ([output] if output else labels) if metric.endswith("_drop") else ():
            metrics.setdefault(name, []).append(metric.removesuffix("_drop"))
    heads = {**reference.spec.heads, **subject.spec.heads, **request.heads}
    kinds = {key.partition("/")[0] for key in hard}
    hard |= {key: bound for key, bound in told_hard.items() if key.partition("/")[0] not in kinds}
    return check_stage(
        context,
        reference,
        [subject],
        opened,
        budgets={subject.precision: {**budget, **hard}},
        metrics=metrics,
        heads=heads,
        stress=request.stress,
    )[0]


def _labelled(key: str, labels: Mapping[str, object]) -> bool:
    """Whether what a bound is on can be measured: a task metric's drop needs labels."""
    output, _, metric = key.rpartition(":")
    return not metric.endswith("_drop") or bool(output in labels if output else labels)


def _all_run(hard: Budget, kinds: Sequence[str]) -> None:
    """Raise UsageError where a budget was given for hard cases that are not asked for."""
    for key in hard:
        kind = key.partition("/")[0]
        if kind not in kinds:
            raise UsageError(
                f"the budget {key!r} is for hard cases that are not run", fix=f"Add --stress {kind}, or leave it out."
            )


def check_stage(
    context: Context,
    reference: Subject,
    candidates: Sequence[Subject],
    samples: SampleSet,
    *,
    budgets: Mapping[str, Budget] | None = None,
    metrics: Mapping[str, Sequence[str]] | None = None,
    heads: Mapping[str, str] | None = None,
    stress: Sequence[str] = (),
) -> list[CheckResult]:
    """Compare each candidate with the reference over the set, and over hard cases of the kinds in `stress`.

    `budgets`, by precision, come before the budget that a candidate carries itself; what neither says of an output is
    as the defaults have it. `heads` says what outputs are.
    """
    given = budgets or {}
    sides = [_side(subject, given.get(subject.precision, subject.budget)) for subject in candidates]
    for subject in candidates:
        # What was saved without its model tells no types, and samples are held to the other side's.
        if reference.saved is None and subject.saved is None:
            _same_inputs(reference, subject)
    context.stage(f"parity of {', '.join(side.precision for side in sides)} against {reference.what}")
    spec = told_spec(reference, candidates)
    size = min(largest_batch(subject.spec, _BATCH) for subject in (reference, *candidates))
    hard = HardCases.of(spec, reference, candidates, stress)
    parts = {
        "reference": reference.key,
        "candidates": [subject.key for subject in candidates],
        "names": [reference.what, *(subject.what for subject in candidates)],
        "samples": samples.content_key(),
        "precisions": [subject.precision for subject in candidates],
        "budgets": [{**side.budget, **side.stress} for side in sides],
        "metrics": plain(metrics or {}),
        "heads": dict(heads or {}),
        "stress": hard.key(),
        "versions": versions(),
    }

    def work(folder: Path) -> None:
        fed = Fed(checked(samples, spec, note=context.note))
        side = Side(what=reference.what, runner=reference.exact(), precision=reference.precision)
        plan = plan_cases(context, hard, reference, candidates, samples)

        def finished(found: Sequence[CheckResult]) -> list[CheckResult]:
            return [
                replace(result, sample_set={"digest": fed.digest}, stress=(*result.stress, *plan.left_out))
                for result in found
            ]

        results = compare(
            side,
            sides,
            batches(fed, spec, size=size),
            metrics=metrics,
            heads=heads,
            stress=plan.cases,
            progress=lambda n: context.stage(f"parity: {n} samples"),
            so_far=lambda partial: context.so_far(lambda: finished(partial())),
        )
        whole = finished(results)
        write_json(folder / "result.json", [result.to_json() for result in whole])

    folder, cached = context.cache.run("parity", parts, work)
    found = [CheckResult.from_json(row) for row in read_json(folder / "result.json")]
    return [
        replace(
            result,
            cached=cached,
            candidate=described(result.candidate, subject),
            reference=described(result.reference, reference),
            sample_set={**result.sample_set, "source": samples.source, "on_data": samples.on_data},
        )
        for result, subject in zip(found, candidates, strict=True)
    ]


def _side(subject: Subject, budget: Budget) -> Side:
    """A candidate with its budget, that for the samples and that for the hard cases apart."""
    samples, stress = split_budget(budget)
    return Side(what=subject.what, runner=subject.exact(), precision=subject.precision, budget=samples, stress=stress)


def versions() -> list[str]:
    """Return the versions of what runs models on the CPU: a stage that ran one depends on them."""
    return [_version(name) for name in ("onnxruntime", "torch")]


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
