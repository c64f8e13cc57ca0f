from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mmtrt.errors import InputError, MeasurementError, UsageError
from mmtrt.parity.compare import Side, compare
from mmtrt.runtimes import Runner
from mmtrt.runtimes.isolated import IsolatedOrtRunner
from mmtrt.samples import Batch
from mmtrt.tensors import Array, Feeds, TensorSpec

if TYPE_CHECKING:
    from typing_extensions import Self

LABELS = {"answer": np.array([0, 1, 2, 0]), "match": np.array([0, 1, 1, -1])}


class Fake:
    """A runner that gives what a function says."""

    def __init__(self, function: Callable[[Feeds], dict[str, Array]], runs: str = "fake 1.0 CPU") -> None:
        self.function = function
        self.runs = runs
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
        self.state = "new"
        self.calls = 0

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        assert self.state == "entered"
        self.calls += 1
        return self.function(feeds)

    def __enter__(self) -> Self:
        self.state = "entered"
        return self

    def __exit__(self, *exc: object) -> None:
        self.state = "left"


def model(feeds: Feeds) -> dict[str, Array]:
    """Right on each `answer`, on all but one `match`."""
    rows = feeds["x"].astype(int)
    return {"answer": np.eye(3)[np.array([0, 1, 2, 0])[rows]] * 8, "match": np.eye(2)[np.array([0, 1, 0, 0])[rows]] * 8}


def shifted(**by: Array | float) -> Callable[[Feeds], dict[str, Array]]:
    return lambda feeds: {name: array + by.get(name, 0) for name, array in model(feeds).items()}


def one_batch_each(split: Sequence[Sequence[int]] = ((0, 1, 2, 3),)) -> list[Batch]:
    return [
        Batch(
            feeds={"x": np.array(rows, np.float32)},
            labels={name: array[list(rows)] for name, array in LABELS.items()},
            indices=tuple(rows),
        )
        for rows in split
    ]


def side(function: Callable[[Feeds], dict[str, Array]] = model, what: str = "b.onnx", **fields: Any) -> Side:
    return Side(what=what, runner=Fake(function), precision="fp16", **fields)


REFERENCE = {"function": model, "what": "a.onnx"}
METRICS = {"answer": ["accuracy"], "match": ["f1", "accuracy"]}


def test_the_fake_keeps_the_contract() -> None:
    assert isinstance(Fake(model), Runner)


def test_the_same_answers_pass_exactly() -> None:
    reference, candidate = side(**REFERENCE), side(budget={"sqnr_db": 300.0, "max_abs": 0.0})
    (result,) = compare(reference, [candidate], one_batch_each())
    assert result.verdict == "pass"
    assert result.samples == 4
    assert result.outputs["answer"].metrics["sqnr_db"] is None
    assert result.outputs["answer"].metrics["max_abs"] == 0
    assert (result.candidate.what, result.candidate.runs, result.candidate.precision) == (
        "b.onnx",
        "fake 1.0 CPU",
        "fp16",
    )
    assert result.reference.what == "a.onnx"
    assert [s.runner.state for s in (reference, candidate)] == ["left", "left"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("split", [[[0, 1, 2, 3]], [[0], [1], [2], [3]], [[3, 1], [0, 2]]])
def test_the_verdict_is_the_same_however_samples_are_batched(split: list[list[int]]) -> None:
    far = side(shifted(answer=np.array([4.0, 0, 5])), budget={"sqnr_db": 20.0, "answer:accuracy_drop": 0.2})
    (result,) = compare(side(**REFERENCE), [far], one_batch_each(split), metrics=METRICS)
    answer = result.outputs["answer"]
    noise, signal = 4 * (16 + 25), 4 * 64
    assert answer.metrics["sqnr_db"] == pytest.approx(10 * math.log10(signal / noise))
    assert answer.metrics["max_abs"] == 5
    # 8+4 0 5 | 4 8 5 | 4 0 13 | 12 0 5: no largest changes.
    assert answer.metrics["argmax_agreement"] == 1
    assert answer.task == {"accuracy": 1}
    assert answer.verdict == "fail"
    assert [why.split()[0] for why in answer.why] == ["sqnr_db"]
    assert result.outputs["match"].verdict == "pass"
    assert result.verdict == "fail"
    assert result.samples == 4


def test_the_reference_runs_once_for_all_candidates() -> None:
    reference = side(**REFERENCE)
    good, bad = (
        side(budget={"cosine": 0.9}),
        side(shifted(match=np.array([-20.0, 0])), "c.onnx", budget={"cosine": 0.9}),
    )
    seen: list[int] = []
    results = compare(reference, [good, bad], one_batch_each([[0, 1], [2, 3]]), progress=seen.append)
    assert [r.verdict for r in results] == ["pass", "fail"]
    assert [r.candidate.what for r in results] == ["b.onnx", "c.onnx"]
    assert [s.runner.calls for s in (reference, good, bad)] == [2, 2, 2]  # type: ignore[attr-defined]
    assert seen == [2, 4]


def test_task_metrics_of_both_sides_and_their_drop() -> None:
    # The largest of `answer` is always class 2: right once in four.
    wrong = shifted(answer=np.array([0.0, 0, 99]))
    budget = {"accuracy_drop": 0.5, "match:f1_drop": 0.0}
    (result,) = compare(side(**REFERENCE), [side(wrong, budget=budget)], one_batch_each(), metrics=METRICS)
    answer, match = result.outputs["answer"], result.outputs["match"]
    assert (answer.task, answer.reference_task) == ({"accuracy": 0.25}, {"accuracy": 1})
    assert "accuracy_drop 0.75 is above 0.5" in answer.why
    assert match.verdict == "pass"
    assert match.reference_task["f1"] == pytest.approx(2 / 3), "the label of -1 does not count"
    assert {m: b for m, b in answer.budget.items() if m.endswith("_drop")} == {"accuracy_drop": 0.5}, "there is no f1"
    assert {m: b for m, b in match.budget.items() if m.endswith("_drop")} == {"accuracy_drop": 0.5, "f1_drop": 0}
    assert answer.budget["sqnr_db"] == match.budget["sqnr_db"] == 40, "a drop alone does not free an output"


def test_a_metric_over_the_whole_set_sees_all_batches() -> None:
    def embedded(feeds: Feeds) -> dict[str, Array]:
        rows = feeds["x"].astype(int)
        return {"embeddings": np.stack([np.eye(4)[rows], np.eye(4)[np.maximum(rows, 1)]], axis=1)}

    def turned(feeds: Feeds) -> dict[str, Array]:
        return {"embeddings": embedded(feeds)["embeddings"] * np.array([1.0, 1, 1, -1])}

    batches = [
        Batch(
            feeds={"x": np.array(rows, np.float32)},
            labels={"embeddings": np.stack([np.array(rows)] * 2, axis=1)},
            indices=tuple(rows),
        )
        for rows in ([0, 1], [2, 3])
    ]
    candidate = side(turned, budget={"embeddings:recall_at_1_drop": 0.1, "rel_l2": 2.0})
    (result,) = compare(side(embedded), [candidate], batches, metrics={"embeddings": ["recall_at_1"]})
    # Text 0 says what text 1 says: it finds image 1, image 0 finds nothing, and image 1 can't tell the two apart.
    assert result.outputs["embeddings"].reference_task["recall_at_1"] == pytest.approx(5 / 8)
    assert result.verdict == "pass", "what both modalities turn alike finds the same"
    lost = side(lambda feeds: {"embeddings": embedded(feeds)["embeddings"] * 0}, budget=candidate.budget)
    (result,) = compare(side(embedded), [lost], batches, metrics={"embeddings": ["recall_at_1"]})
    assert result.outputs["embeddings"].why == ("recall_at_1_drop 0.625 is above 0.1",)
    assert result.outputs["embeddings"].budget["rel_l2"] == 2


def test_a_drop_without_a_label_that_counts_fails() -> None:
    batch = Batch(feeds={"x": np.zeros(1)}, labels={"answer": np.array([-1])}, indices=(0,))
    (result,) = compare(
        side(**REFERENCE), [side(budget={"accuracy_drop": 1.0})], [batch], metrics={"answer": ["accuracy"]}
    )
    assert result.outputs["answer"].why == ("accuracy_drop nan is above 1",)


def test_what_is_not_finite_fails_whatever_the_budget() -> None:
    (result,) = compare(side(**REFERENCE), [side(shifted(match=math.nan))], one_batch_each())
    assert result.outputs["match"].why == ("non_finite 8 is above 0",)
    assert result.verdict == "fail"
    (allowed,) = compare(side(**REFERENCE), [side(shifted(match=math.nan), budget={"non_finite": 8})], one_batch_each())
    assert allowed.verdict == "pass"


def test_agreement_that_can_t_be_measured_fails() -> None:
    def single(feeds: Feeds) -> dict[str, Array]:
        return {"score": feeds["x"][:, None]}

    (result,) = compare(side(single), [side(single, budget={"argmax_agreement": 0.5})], one_batch_each(), metrics={})
    assert result.outputs["score"].why == ("argmax_agreement nan is below 0.5",)


@pytest.mark.parametrize(
    "budget",
    [{"sqnr": 1.0}, {"anser:cosine": 0.9}, {"accuracy_drop": 0.1}, {"answer:accuracy_drop": 0.1}],
)
def test_a_budget_that_judges_nothing_is_refused_at_once(budget: dict[str, float]) -> None:
    candidate = side(budget=budget)
    with pytest.raises(UsageError, match="the budget"):
        compare(side(**REFERENCE), [candidate], one_batch_each([[0], [1]]))
    assert candidate.runner.calls <= 1  # type: ignore[attr-defined]
    assert candidate.runner.state == "left"  # type: ignore[attr-defined]


class Hanging(IsolatedOrtRunner):
    """Answers only when it is left."""

    def __init__(self) -> None:
        super().__init__(Path("hangs.onnx"))
        self.left = threading.Event()
        self.in_time = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.left.set()

    def infer(self, feeds: Feeds) -> dict[str, Array]:  # noqa: ARG002
        self.in_time = self.left.wait(10)
        raise MeasurementError("ended")


def test_an_interrupt_does_not_wait_for_the_other_sides() -> None:
    def interrupted(feeds: Feeds) -> dict[str, Array]:
        raise KeyboardInterrupt

    hanging = Hanging()
    with pytest.raises(KeyboardInterrupt):
        compare(side(interrupted), [Side(what="b.onnx", runner=hanging)], one_batch_each())
    assert hanging.in_time


def test_no_samples_are_no_verdict() -> None:
    with pytest.raises(InputError, match="no samples"):
        compare(side(**REFERENCE), [side()], [])


def test_other_outputs_are_no_comparison() -> None:
    def other(feeds: Feeds) -> dict[str, Array]:
        return {"logits": feeds["x"]}

    with pytest.raises(InputError, match=r"b\.onnx has the outputs logits; the reference has answer, match"):
        compare(side(**REFERENCE), [side(other)], one_batch_each())


def test_an_output_of_another_shape_fails_and_the_others_are_judged() -> None:
    def other(feeds: Feeds) -> dict[str, Array]:
        return {**model(feeds), "match": feeds["x"] if 3 in feeds["x"] else model(feeds)["match"]}

    (result,) = compare(side(**REFERENCE), [side(other)], one_batch_each([[0, 1], [2, 3]]), metrics=METRICS)
    match, answer = result.outputs["match"], result.outputs["answer"]
    assert (result.verdict, match.verdict, answer.verdict) == ("fail", "fail", "pass")
    assert match.why == ("its shape is (2,), and the reference's is (2, 2)",)
    assert set(match.metrics.values()) == {None}, "what was compared before says nothing of the whole"


@pytest.mark.parametrize(
    ("dtype", "why", "note"),
    [
        (np.int64, "its type is int64, and the reference's is float64", ""),
        (bool, "its type is bool, and the reference's is float64", ""),
        (np.float16, "", "float16 where the reference has float64"),
        (np.float64, "", ""),
    ],
)
def test_another_sort_of_number_fails_and_another_width_is_told(dtype: type, why: str, note: str) -> None:
    def cast(feeds: Feeds) -> dict[str, Array]:
        return {name: array.astype(dtype) for name, array in model(feeds).items()}

    (result,) = compare(side(**REFERENCE), [side(cast)], one_batch_each())
    output = result.outputs["answer"]
    assert output.why == ((why,) if why else ())
    assert output.note == note


@pytest.mark.parametrize("dtype", ["complex64", "U8"])
def test_what_holds_no_real_numbers_is_refused(dtype: str) -> None:
    def cast(feeds: Feeds) -> dict[str, Array]:
        return {name: array.astype(dtype) for name, array in model(feeds).items()}

    def imaginary(feeds: Feeds) -> dict[str, Array]:
        return {name: array + 1j if array.dtype.kind == "c" else array for name, array in cast(feeds).items()}

    with pytest.raises(InputError, match=f"is of type .*{dtype}"):
        compare(side(cast), [side(imaginary)], one_batch_each())


def test_metrics_need_an_output_and_labels() -> None:
    with pytest.raises(UsageError, match="'caption', which is no output"):
        compare(side(**REFERENCE), [side()], one_batch_each(), metrics={"caption": ["accuracy"]})
    bare = [Batch(feeds={"x": np.zeros(2)}, labels={}, indices=(0, 1))]
    with pytest.raises(InputError, match="no labels for output 'answer'"):
        compare(side(**REFERENCE), [side()], bare, metrics=METRICS)
    square = [Batch(feeds={"x": np.zeros(2)}, labels={"answer": np.zeros((2, 1))}, indices=(0, 1))]
    with pytest.raises(InputError, match="output 'answer': logits"):
        compare(side(**REFERENCE), [side()], square, metrics={"answer": ["accuracy"]})


def test_a_side_that_fails_leaves_both_sides() -> None:
    def crash(feeds: Feeds) -> dict[str, Array]:
        raise MeasurementError("it crashed")

    sides = side(**REFERENCE), side(crash)
    with pytest.raises(MeasurementError, match="it crashed"):
        compare(sides[0], [sides[1]], one_batch_each())
    assert [s.runner.state for s in sides] == ["left", "left"]  # type: ignore[attr-defined]
