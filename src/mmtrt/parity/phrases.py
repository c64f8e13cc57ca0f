"""A pipeline end to end against golden events: its outputs, and of one that generates the phrases too.

Where a phrase differs, the outputs of the step are compared once more along the reference's own tokens: behind the
first other token two runs no longer answer the same question.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmtrt.errors import InputError
from mmtrt.parity.budget import PHRASES, Budget
from mmtrt.parity.defaults import PHRASE_BUDGETS
from mmtrt.parity.tally import Tally
from mmtrt.parity.tasks import Tasks
from mmtrt.parity.verdict import whole_verdict
from mmtrt.parts.chain import Chain
from mmtrt.parts.declared import Step
from mmtrt.parts.grouping import in_order, most_rows, stacked
from mmtrt.parts.wiring import TOKENS, Wiring
from mmtrt.results import CheckResult, Ran
from mmtrt.samples import LABEL, OUTPUT, Sample, with_prefix
from mmtrt.tensors import Array

__all__ = ["chain_budget", "compare_chain", "phrase_of"]


def chain_budget(precision: str, step: Step | None, given: Budget | None = None) -> dict[str, float]:
    """Return what is given for a pipeline end to end, and of what generates a share of phrases unless that says one."""
    budget = dict(given or {})
    said = any(key.rpartition(":")[2] == PHRASES for key in budget)
    if step is not None and precision in PHRASE_BUDGETS and not said:
        budget[f"{step.logits}:{PHRASES}"] = PHRASE_BUDGETS[precision]
    return budget


def phrase_of(tokens: Array, end: int) -> tuple[int, ...]:
    """Return a row of tokens up to its end, which is part of it."""
    ends = np.flatnonzero(tokens == end)
    return tuple(tokens[: ends[0] + 1].tolist() if ends.size else tokens.tolist())


def compare_chain(
    chain: Chain,
    wiring: Wiring,
    what: str,
    precision: str,
    events: Iterable[Sample],
    *,
    budget: Budget,
    reference: Ran,
    metrics: Mapping[str, Sequence[str]] | None = None,
    heads: Mapping[str, str] | None = None,
) -> CheckResult:
    """Return the verdict on a chain over golden events; it is entered and left here.

    `metrics` names task metrics by output, `heads` says what outputs are; InputError where the events lack golden
    outputs, or labels for a metric.
    """
    tally, truth = Tally(what, metrics or {}, heads or {}), Tasks(metrics or {})
    count = equal = 0
    with chain:
        names = [tensor.name for tensor in wiring.inputs]
        found = in_order(
            events, names, most_rows(wiring.spec), lambda group: _answers(chain, names, group, wiring.step)
        )
        for sample, answer in found:
            _add(tally, truth, sample, answer)
            count += 1
            equal += answer.same
        ran = Ran(what=what, runs=chain.runs, precision=precision)
    if not count:
        raise InputError("there are no events to compare", fix="A verdict needs at least one.")
    phrases = {} if wiring.step is None else {wiring.step.logits: (equal / count, count)}
    outputs = tally.results(budget, precision, truth, phrases)
    verdict = whole_verdict(output.verdict for output in outputs.values())
    return CheckResult(verdict=verdict, candidate=ran, reference=reference, samples=count, outputs=outputs)


@dataclass(frozen=True, slots=True)
class _Answered:
    """What a chain gave for one event: its outputs along the golden phrase, and whether it would say the same."""

    outputs: dict[str, Array]
    same: bool


def _answers(chain: Chain, names: Sequence[str], group: Sequence[Sample], step: Step | None) -> list[_Answered]:
    """Run events of equal shapes; once more along the golden phrases where one differs."""
    feeds = stacked(group, names)
    got = chain.run(feeds)
    if step is None:
        return [_Answered(row, same=True) for row in got.rows()]
    told = [phrase_of(_golden(with_prefix(sample, OUTPUT), TOKENS), step.end) for sample in group]
    same = [ours == theirs for ours, theirs in zip(got.phrases(), told, strict=True)]
    if not all(same):
        longest = max(map(len, told))
        got = chain.run(feeds, forced=np.array([[*row, *[step.pad] * (longest - len(row))] for row in told]))
    rows = [{name: array for name, array in row.items() if name != TOKENS} for row in got.rows()]
    return [_Answered(row, same=agrees) for row, agrees in zip(rows, same, strict=True)]


def _add(tally: Tally, truth: Tasks, sample: Sample, answer: _Answered) -> None:
    golden = with_prefix(sample, OUTPUT)
    told = {name: _golden(golden, name)[None] for name in answer.outputs}
    got = {name: array[None] for name, array in answer.outputs.items()}
    labels = {name: np.asarray(label)[None] for name, label in with_prefix(sample, LABEL).items()}
    tally.add(told, got, labels)
    truth.add(told, labels)


def _golden(row: Mapping[str, Array], name: str) -> Array:
    if name not in row:
        raise InputError(
            f"the events have no golden output {name!r}", fix="`mmtrt export` of the pipeline writes a set with them."
        )
    return row[name]
