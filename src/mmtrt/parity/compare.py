"""Run the reference once over a set, each candidate beside it, and hold each output to its budget."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from mmtrt.errors import InputError, UsageError
from mmtrt.metrics import Comparison, TaskMetric, make_task_metric
from mmtrt.parity.budget import Budget, check_names, judged
from mmtrt.results import CheckResult, OutputResult, Ran
from mmtrt.runtimes import Runner
from mmtrt.runtimes.isolated import IsolatedOrtRunner
from mmtrt.samples import Batch
from mmtrt.tensors import Array, Feeds

__all__ = ["Side", "compare"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One side of a check: what it is called, its precision, what runs it, and its budget (candidates)."""

    what: str
    runner: Runner
    precision: str = ""
    budget: Budget = field(default_factory=dict)


class _Heads:
    """Task metrics of one side, by output."""

    def __init__(self, wanted: Mapping[str, Sequence[str]]) -> None:
        self._metrics: dict[str, list[TaskMetric]] = {
            output: [make_task_metric(name) for name in names] for output, names in wanted.items()
        }

    def add(self, outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> None:
        for output, metrics in self._metrics.items():
            if output not in labels:
                raise InputError(
                    f"the set has no labels for output {output!r}",
                    fix=f"Its samples need the key 'label.{output}'.",
                )
            for metric in metrics:
                try:
                    metric.add(outputs[output], labels[output])
                except ValueError as error:
                    raise InputError(f"output {output!r}: {error}") from None

    def values(self) -> dict[str, dict[str, float]]:
        return {output: {m.name: m.value for m in metrics} for output, metrics in self._metrics.items()}


def compare(
    reference: Side,
    candidates: Sequence[Side],
    batches: Iterable[Batch],
    *,
    metrics: Mapping[str, Sequence[str]] | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> list[CheckResult]:
    """Return a verdict per candidate over all batches; the sides are entered and left here.

    `metrics` names each head's task metrics, for which the batches carry labels. InputError where two sides
    have other outputs or there are no samples, UsageError where a budget names none of them.
    """
    wanted = metrics or {}
    sums: list[dict[str, Comparison]] = [{} for _ in candidates]
    heads = [_Heads(wanted) for _ in range(len(candidates) + 1)]
    samples = 0
    with contextlib.ExitStack() as stack:
        # Left last: on Ctrl-C the runners end their processes, and with them what the threads wait for.
        pool = stack.enter_context(ThreadPoolExecutor(len(candidates) + 1))
        for side in (reference, *candidates):
            stack.enter_context(side.runner)
        for batch in batches:
            told, *answers = _together(pool, [side.runner for side in (reference, *candidates)], batch.feeds)
            _check_heads(wanted, told)
            for side in candidates:
                check_names(side.budget, told, wanted)
            heads[-1].add(told, batch.labels)
            for side, got, sides_sums, head in zip(candidates, answers, sums, heads, strict=False):
                _add(sides_sums, told, got, side.what)
                head.add(got, batch.labels)
            samples += len(batch.indices)
            progress(samples)
        rans = [Ran(what=s.what, runs=s.runner.runs, precision=s.precision) for s in (reference, *candidates)]
    if not samples:
        raise InputError("there are no samples to compare", fix="A verdict needs at least one.")
    truth = heads[-1].values()
    return [
        _verdict(side, ran, rans[0], sides_sums, head.values(), truth, samples)
        for side, ran, sides_sums, head in zip(candidates, rans[1:], sums, heads, strict=False)
    ]


def _together(pool: ThreadPoolExecutor, runners: Sequence[Runner], feeds: Feeds) -> list[dict[str, Array]]:
    """Run all sides on a batch; those with a process of their own at the same time, the others in this thread.

    A small operator uses one core, so processes side by side are quicker; CUDA contexts and TensorRT's log are a
    thread's own.
    """
    waiting = {i: pool.submit(r.infer, feeds) for i, r in enumerate(runners) if isinstance(r, IsolatedOrtRunner)}
    own = {i: runner.infer(feeds) for i, runner in enumerate(runners) if i not in waiting}
    return [waiting[i].result() if i in waiting else own[i] for i in range(len(runners))]


def _check_heads(wanted: Mapping[str, Sequence[str]], told: Mapping[str, Array]) -> None:
    for output in wanted:
        if output not in told:
            raise UsageError(
                f"task metrics are given for {output!r}, which is no output",
                fix=f"Outputs are {', '.join(told)}.",
            )


def _add(sums: dict[str, Comparison], told: Mapping[str, Array], got: Mapping[str, Array], what: str) -> None:
    if told.keys() != got.keys():
        raise InputError(
            f"{what} has the outputs {', '.join(got)}; the reference has {', '.join(told)}",
            fix="Compare two builds of the same model.",
        )
    for name, array in told.items():
        try:
            sums.setdefault(name, Comparison()).add(array, got[name])
        except ValueError as error:
            raise InputError(f"{what}, output {name!r}: {error}") from None


def _verdict(
    side: Side,
    ran: Ran,
    reference: Ran,
    sums: Mapping[str, Comparison],
    task: Mapping[str, Mapping[str, float]],
    truth: Mapping[str, Mapping[str, float]],
    samples: int,
) -> CheckResult:
    outputs = {}
    for name, comparison in sums.items():
        drops = {f"{m}_drop": truth[name][m] - value for m, value in task.get(name, {}).items()}
        bounds, why = judged(name, comparison, drops, side.budget)
        outputs[name] = OutputResult(
            metrics=comparison.values(),
            task=dict(task.get(name, {})),
            reference_task=dict(truth.get(name, {})),
            budget=bounds,
            verdict="fail" if why else "pass",
            why=why,
        )
    failed = any(output.verdict == "fail" for output in outputs.values())
    return CheckResult(
        verdict="fail" if failed else "pass",
        candidate=ran,
        reference=reference,
        samples=samples,
        outputs=outputs,
    )
