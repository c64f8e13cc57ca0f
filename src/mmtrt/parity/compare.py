"""Run the reference once over a set, each candidate beside it, and hold each output to its budget."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from mmtrt.errors import InputError, UsageError
from mmtrt.parity.budget import check_names
from mmtrt.parity.holding import Scales
from mmtrt.parity.side import Side, together
from mmtrt.parity.stress import StressCase
from mmtrt.parity.stress_budget import check_stress_names
from mmtrt.parity.stressing import run_stress
from mmtrt.parity.tally import Tally, kinds_of
from mmtrt.parity.tasks import Tasks
from mmtrt.parity.verdict import whole_verdict
from mmtrt.results import CheckResult, Ran, StressResult
from mmtrt.samples import Batch
from mmtrt.tensors import Array

__all__ = ["Side", "compare"]


def compare(
    reference: Side,
    candidates: Sequence[Side],
    batches: Iterable[Batch],
    *,
    metrics: Mapping[str, Sequence[str]] | None = None,
    heads: Mapping[str, str] | None = None,
    stress: Iterable[StressCase] = (),
    progress: Callable[[int], None] = lambda _: None,
    so_far: Callable[[Callable[[], list[CheckResult]]], None] = lambda _: None,
) -> list[CheckResult]:
    """Return a verdict per candidate over all batches, and over each hard case; the sides are entered and left here.

    `so_far` is told how to ask for the results of what was compared until then; there are none before the first batch.
    `metrics` names each head's task metrics, for which the batches carry labels; `heads` says what outputs are
    (`mmtrt.metrics.KINDS`). InputError where two sides have other outputs or there are no samples, UsageError where a
    budget or a head names none of them. An output of another shape or type is a verdict: it fails.
    """
    wanted, kinds = metrics or {}, heads or {}
    tallies = [Tally(side.what, wanted, kinds) for side in candidates]
    truth = Tasks(wanted)
    hard: list[list[StressResult]] = [[] for _ in candidates]
    rans: list[Ran] = []
    scales = Scales()
    samples = 0

    def results() -> list[CheckResult]:
        return [
            _result(side, ran, rans[0], tally, truth, samples, cases)
            for side, ran, tally, cases in zip(candidates, rans[1:], tallies, hard, strict=False)
            if samples
        ]

    so_far(results)
    with contextlib.ExitStack() as stack:
        # Left last: on Ctrl-C the runners end their processes, and with them what the threads wait for.
        pool = stack.enter_context(ThreadPoolExecutor(len(candidates) + 1))
        for side in (reference, *candidates):
            stack.enter_context(side.runner)
        for batch in batches:
            told, *answers = together(pool, [side.runner for side in (reference, *candidates)], batch.feeds)
            _check_tasks(wanted, told)
            for side in candidates:
                check_names(side.budget, told, wanted, heads=kinds_of(told, kinds))
                check_stress_names(side.stress, told)
            truth.add(told, batch.labels)
            scales.add(told)
            for got, tally in zip(answers, tallies, strict=True):
                tally.add(told, got, batch.labels)
            rans = [Ran(what=s.what, runs=s.runner.runs, precision=s.precision) for s in (reference, *candidates)]
            samples += len(batch.indices)
            progress(samples)
        run_stress(pool, reference, candidates, stress, scales, into=hard)
    if not samples:
        raise InputError("there are no samples to compare", fix="A verdict needs at least one.")
    return results()


def _result(
    side: Side, ran: Ran, reference: Ran, tally: Tally, truth: Tasks, samples: int, cases: Sequence[StressResult]
) -> CheckResult:
    outputs = tally.results(side.budget, side.precision, truth)
    return CheckResult(
        verdict=whole_verdict([*(o.verdict for o in outputs.values()), *(case.verdict for case in cases)]),
        candidate=ran,
        reference=reference,
        samples=samples,
        outputs=outputs,
        stress=tuple(cases),
    )


def _check_tasks(wanted: Mapping[str, Sequence[str]], told: Mapping[str, Array]) -> None:
    for output in wanted:
        if output not in told:
            raise UsageError(
                f"task metrics are given for {output!r}, which is no output",
                fix=f"Outputs are {', '.join(told)}.",
            )
