"""What `mmtrt check` is asked, and its two sides with the samples that they are compared over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmtrt.artifacts import file_digest
from mmtrt.errors import SampleError
from mmtrt.parity.budget import Budget
from mmtrt.parity.stress import KINDS
from mmtrt.pipeline.choosing import chosen_samples, limited
from mmtrt.pipeline.saved import as_rows, common_rows, pair
from mmtrt.pipeline.sides import ENGINE_SUFFIXES, Subject, is_source, open_subject
from mmtrt.pipeline.stale import stale_file, stale_source
from mmtrt.results import CheckResult, Ran
from mmtrt.samples import SampleSet
from mmtrt.tensors import ModelSpec

__all__ = ["CheckRequest", "described", "narrowed", "open_sides", "told_spec", "with_samples"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRequest:
    """What `mmtrt check` is asked: two sides, the samples, what the candidate may differ by, and which hard cases.

    Without `samples` it is those that lie beside a side. `budget` comes before the one that the candidate carries.
    `checkpoint` holds the weights of the side that is a source. `stress` names kinds of hard cases; () is none. `heads`
    says what outputs are (`mmtrt.metrics.KINDS`), and comes before what the sides say. `baseline` is an earlier check's
    JSON, `reduce` where locating writes the smallest ONNX that shows the failure.
    """

    candidate: str
    against: str
    samples: str | SampleSet | None = None
    count: int | None = None
    budget: Budget = field(default_factory=dict)
    checkpoint: Path | None = None
    stress: tuple[str, ...] = KINDS
    heads: Mapping[str, str] = field(default_factory=dict)
    baseline: Path | None = None
    reduce: Path | None = None


def open_sides(request: CheckRequest) -> tuple[Subject, Subject] | CheckResult:
    """Open both sides, or tell that the candidate is an engine older than the reference, also where it can't run."""
    engine = Path(request.candidate)
    if is_source(request.candidate) or engine.suffix not in ENGINE_SUFFIXES or not engine.is_file():
        subject = open_subject(request.candidate, request.checkpoint)
        return subject, open_subject(request.against, request.checkpoint)
    reference = Ran(what=request.against, runs="")
    why = stale_file(engine, request.against)
    if why is None:
        opened = open_subject(request.against, request.checkpoint)
        reference = described(reference, opened)
        why = stale_source(engine, opened.spec, request.against)
        if why is None:
            return open_subject(request.candidate, request.checkpoint), opened
    candidate = Ran(what=request.candidate, runs="", note=why, digest=file_digest(engine))
    return CheckResult(verdict="fail", candidate=candidate, reference=reference, samples=0, outputs={}, note=why)


def with_samples(
    request: CheckRequest, subject: Subject, reference: Subject, opened: SampleSet | None
) -> tuple[Subject, Subject, SampleSet]:
    """Return both sides and the samples they are compared over; saved sides are paired with those."""
    sides = [side.saved for side in (reference, subject) if side.saved is not None]
    spec = told_spec(reference, [subject])
    if opened is None:
        own = next((saved.samples for saved in sides if saved.samples is not None), None)
        if own is not None and request.samples is None:
            opened = limited(own, request.count)
        elif len(sides) == 2 and request.samples is None:
            rows, spec = common_rows(sides)
            opened = limited(rows, request.count)
        elif sides and request.samples is None:
            raise SampleError(
                f"{sides[0].what} holds outputs without the inputs that they belong to",
                fix="Name the samples that they were saved for with --samples, in the same order.",
            )
        else:
            text = request.samples if isinstance(request.samples, str) else None
            opened = chosen_samples(text, request.count, (request.candidate, request.against), spec)
    opened = as_rows(opened, spec)

    def paired(side: Subject) -> Subject:
        saved = side.saved
        if saved is None:
            return side
        partly = request.count is not None
        return replace(side, spec=spec, exact=lambda: pair(saved, opened, spec, partly=partly))

    return paired(subject), paired(reference), opened


def told_spec(reference: Subject, candidates: Sequence[Subject]) -> ModelSpec:
    """Return the spec that knows most of limits and ranges: a candidate's, a source may know none of them.

    Saved outputs are asked only where nothing else stands on the sides.
    """
    running = [s for s in candidates if s.saved is None] or [s for s in (reference,) if s.saved is None]
    return max((s.spec for s in running or [reference, *candidates]), key=lambda s: len(s.limits) + len(s.ranges))


def described(ran: Ran, subject: Subject) -> Ran:
    """Add the digest of what ran, the source that it comes from, and who had run what was saved."""
    return replace(ran, digest=subject.key, model=subject.spec.source, note=ran.note or subject.note)


def narrowed(candidate: ModelSpec, reference: ModelSpec) -> str:
    """Say which ranges of a candidate end before the reference's do: what lies beyond is in no hard case."""
    told = []
    for name, (low, _, high) in reference.ranges.items():
        own = candidate.ranges.get(name)
        if own is not None and (own[0] > low or own[2] < high):
            told.append(f"{name} is {own[0]} to {own[2]} where the reference has {low} to {high}")
    return ", ".join(told)
