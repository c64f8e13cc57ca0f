"""What one candidate's outputs came to, batch by batch, and the results that follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmtrt.errors import InputError, UsageError
from mmtrt.metrics import METRICS, Comparison
from mmtrt.metrics.heads import guessed_kind
from mmtrt.parity.budget import PHRASES, Budget, check_heads, held
from mmtrt.parity.tasks import Tasks
from mmtrt.parity.verdict import judge
from mmtrt.results import OutputResult
from mmtrt.tensors import Array

__all__ = ["Tally", "kinds_of"]


def kinds_of(outputs: Mapping[str, Array], heads: Mapping[str, str]) -> dict[str, str]:
    """Return the kind of each output: as `heads` says, else as its dtype does; UsageError at no output's name.

    InputError where an output holds no real numbers: complex ones, or text.
    """
    check_heads(heads, outputs)
    for name, array in outputs.items():
        if array.dtype.kind in "cSUOmM":
            raise InputError(
                f"output {name!r} is of type {array.dtype}, and real numbers are compared",
                fix="Let the model return real numbers: a complex one's two parts, an index in place of text.",
            )
    return {name: heads.get(name) or guessed_kind(array) for name, array in outputs.items()}


class Tally:
    """Compares one candidate with the reference: errors, heads and task metrics, in memory that does not grow.

    `heads` says what outputs are. An output of another shape or type is not measured from there on: it fails.
    """

    def __init__(self, what: str, tasks: Mapping[str, Sequence[str]], heads: Mapping[str, str]) -> None:
        self.tasks = Tasks(tasks)
        self._what = what
        self._heads = heads
        self._outputs: dict[str, Comparison] = {}
        self._unlike: dict[str, str] = {}
        self._types: dict[str, str] = {}

    def add(self, told: Mapping[str, Array], got: Mapping[str, Array], labels: Mapping[str, Array]) -> None:
        """Add a batch; InputError where outputs are missing or too many, or labels are."""
        if told.keys() != got.keys():
            raise InputError(
                f"{self._what} has the outputs {', '.join(got)}; the reference has {', '.join(told)}",
                fix="Compare two builds of the same model.",
            )
        if not self._outputs:
            self._outputs = {name: Comparison(kind) for name, kind in kinds_of(told, self._heads).items()}
        for name, array in told.items():
            self._add(name, array, got[name])
        self.tasks.add(got, labels, without=self._unlike)

    def _add(self, name: str, told: Array, got: Array) -> None:
        if name in self._unlike:
            return
        if told.shape != got.shape:
            self._unlike[name] = f"its shape is {got.shape}, and the reference's is {told.shape}"
        elif _sort(told) != _sort(got):
            self._unlike[name] = f"its type is {got.dtype}, and the reference's is {told.dtype}"
        else:
            if told.dtype != got.dtype:
                self._types[name] = f"{got.dtype} where the reference has {told.dtype}"
            try:
                self._outputs[name].add(told, got)
            except ValueError as error:
                raise UsageError(
                    f"output {name!r}: {error}", fix="Say what it is under parity.heads of the recipe, or by --head."
                ) from None

    def results(
        self, budget: Budget, precision: str, truth: Tasks, phrases: Mapping[str, tuple[float, int]] | None = None
    ) -> dict[str, OutputResult]:
        """Return each output's result; `truth` holds the reference's task metrics, `phrases` equal shares by output."""
        found = {}
        for name, comparison in self._outputs.items():
            if name in self._unlike:
                found[name] = self._failed(name, budget, precision, truth)
            else:
                found[name] = self._result(name, comparison, budget, precision, truth, (phrases or {}).get(name))
        return found

    def _result(
        self,
        name: str,
        comparison: Comparison,
        budget: Budget,
        precision: str,
        truth: Tasks,
        phrases: tuple[float, int] | None,
    ) -> OutputResult:
        task, reference_task = self.tasks.values(name), truth.values(name)
        drops = {f"{metric}_drop": reference_task[metric] - value for metric, value in task.items()}
        judgement = judge(name, comparison, budget, precision, drops=drops, phrases=phrases)
        return OutputResult(
            metrics={**comparison.values(), **({PHRASES: phrases[0]} if phrases else {})},
            task=task,
            reference_task=reference_task,
            intervals={**judgement.intervals, **truth.drop_intervals(name, self.tasks)},
            budget=judgement.bounds,
            verdict=judgement.verdict,
            why=judgement.why,
            kind=comparison.kind,
            note=self._types.get(name, ""),
        )

    def _failed(self, name: str, budget: Budget, precision: str, truth: Tasks) -> OutputResult:
        kind = self._outputs[name].kind
        return OutputResult(
            metrics=dict.fromkeys(METRICS),
            reference_task=truth.values(name),
            budget=held(budget, name, precision, kind),
            verdict="fail",
            why=(self._unlike[name],),
            kind=kind,
        )


def _sort(array: Array) -> str:
    """Floats of any width are one sort, and so are integers: a width is part of a precision, and is judged by value."""
    return "i" if array.dtype.kind == "u" else array.dtype.kind
