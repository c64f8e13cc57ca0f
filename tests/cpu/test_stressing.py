"""What a side raises in a hard case: whose fault it is, and that the cases behind it are run all the same."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from toys import Toy

from mmtrt.errors import MachineError
from mmtrt.parity.compare import Side, compare
from mmtrt.parity.stress import How, Named, StressCase
from mmtrt.results import CheckResult, StressResult
from mmtrt.runtimes.isolated import IsolatedOrtRunner
from mmtrt.samples import Batch
from mmtrt.tensors import Array, Feeds, TensorSpec

if TYPE_CHECKING:
    from typing_extensions import Self


class Calling:
    """A runner that gives what a function says."""

    runs = "a function"
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    def __init__(self, function: Callable[[Feeds], Array]) -> None:
        self.function = function

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        return {"y": self.function(feeds)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


def double(feeds: Feeds) -> Array:
    return np.asarray(feeds["x"] * 2)


def raising(error: Exception, where: float = 9.0) -> Callable[[Feeds], Array]:
    def function(feeds: Feeds) -> Array:
        if (feeds["x"] == where).any():
            raise error
        return double(feeds)

    return function


def case(value: float, kind: str = "corner") -> StressCase:
    return StressCase(named=(Named(kind, f"x = {value:g}"),), sizes={}, feeds={"x": np.full((2, 3), value, np.float32)})


def result(reference: Callable[[Feeds], Array], candidate: Callable[[Feeds], Array], *cases: StressCase) -> CheckResult:
    x = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
    sides = [Side(what=what, runner=Calling(run)) for what, run in (("ours", reference), ("theirs", candidate))]
    (found,) = compare(sides[0], [sides[1]], [Batch(feeds={"x": x}, labels={}, indices=(0, 1))], stress=cases)
    return found


def verdicts(found: CheckResult) -> list[str]:
    return [one.verdict for one in found.stress]


def test_where_the_reference_raises_nothing_is_owed() -> None:
    found = result(raising(IndexError("index 9 is out of range")), double, case(9), case(1))
    assert verdicts(found) == ["reference refuses", "pass"]
    assert found.stress[0].note == "IndexError: index 9 is out of range"
    assert found.verdict == "pass"


def test_where_the_candidate_alone_raises_it_fails_and_the_next_case_is_run() -> None:
    found = result(double, raising(ValueError("no kernel")), case(9), case(1))
    assert verdicts(found) == ["fail", "pass"]
    assert found.stress[0].note == "ValueError: no kernel"
    assert found.verdict == "fail"


def test_what_this_machine_has_no_memory_for_is_not_told() -> None:
    found = result(double, raising(MachineError("no memory")), case(9), case(1))
    assert verdicts(found) == ["inconclusive", "pass"]
    assert found.verdict == "inconclusive"


@pytest.mark.parametrize("how", ["both sides", "alone"])
def test_what_the_reference_has_no_memory_for_is_not_told_either(how: How) -> None:
    kind = "corner" if how == "both sides" else "batch-invariance"
    found = result(raising(MachineError("no memory")), double, replace(case(9, kind), how=how))
    assert verdicts(found) == ["inconclusive"]
    assert found.verdict == "inconclusive"


def test_another_shape_fails() -> None:
    found = result(double, lambda feeds: double(feeds)[:, : 1 if feeds["x"][0, 0] == 9 else 3], case(9))
    assert found.stress[0].outputs["y"].why == ("the shapes differ: (2, 3) and (2, 1)",)
    assert found.verdict == "fail"


def test_an_error_is_measured_by_the_outputs_usual_signal_where_the_case_has_none() -> None:
    def a_little_off(feeds: Feeds) -> Array:
        return double(feeds) + np.float32(1e-6) * np.array([[1, -1, 1]], np.float32)

    # All but zero: its own signal is below the error.
    found = result(double, a_little_off, case(1e-7))
    (one,) = found.stress
    usual, noise = np.mean((2 * np.arange(1, 7)) ** 2), 1e-12
    assert one.outputs["y"].metrics["sqnr_db"] == pytest.approx(10 * np.log10(usual / noise), abs=0.1)
    assert found.verdict == "pass"


def test_one_run_is_held_to_the_budget_of_each_of_its_kinds() -> None:
    both = StressCase(
        named=(Named("corner", "x"), Named("batch", "x")), sizes={}, feeds={"x": np.ones((1, 3), np.float32)}
    )
    x = np.ones((1, 3), np.float32)
    reference = Side(what="ours", runner=Calling(double))
    candidate = Side(
        what="theirs",
        runner=Calling(lambda feeds: double(feeds) + np.float32(0.01)),
        budget={"sqnr_db": 20.0},
        stress={"corner/max_abs": 1e-3, "batch/max_abs": 0.1},
    )
    (found,) = compare(reference, [candidate], [Batch(feeds={"x": x}, labels={}, indices=(0,))], stress=[both])
    assert [(one.kind, one.verdict) for one in found.stress] == [("corner", "fail"), ("batch", "pass")]


@pytest.mark.parametrize("budget", ["cosine", "non_finite", "argmax_agreement"])
def test_a_scale_that_a_case_alone_shows_fails_whatever_else_is_asked(budget: str) -> None:
    def scaled(feeds: Feeds) -> Array:
        return double(feeds) * np.float32(3 if feeds["x"][0, 0] == 9 else 1)

    x = np.arange(1, 4, dtype=np.float32)[None]
    candidate = Side(what="b", runner=Calling(scaled), precision="int8", stress={f"corner/{budget}": 0.9})
    batch = Batch(feeds={"x": x}, labels={}, indices=(0,))
    (found,) = compare(Side(what="a", runner=Calling(double)), [candidate], [batch], stress=[case(9)])
    assert verdicts(found) == ["fail"]
    assert found.verdict == "fail"


def test_a_share_for_every_output_is_held_where_there_are_rows() -> None:
    def single(feeds: Feeds) -> Array:
        return double(feeds)[:, :1]

    x = np.ones((1, 3), np.float32)
    candidate = Side(what="b", runner=Calling(single), stress={"corner/argmax_agreement": 0.9})
    batch = Batch(feeds={"x": x}, labels={}, indices=(0,))
    (found,) = compare(Side(what="a", runner=Calling(single)), [candidate], [batch], stress=[case(1)])
    assert found.stress[0].outputs["y"].budget == {"non_finite": 0, "sqnr_db": 70}
    assert found.verdict == "pass"


def test_results_survive_their_json() -> None:
    found = result(raising(IndexError("no")), double, case(9), case(1))
    assert CheckResult.from_json(found.to_json()).stress == found.stress
    assert isinstance(found.stress[0], StressResult)


class Dying(IsolatedOrtRunner):
    """Its process crashes at feeds that are all nines."""

    entered = 0

    def __enter__(self) -> Self:
        self.entered += 1
        super().__enter__()
        return self

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        if (feeds["image"] == 9).all():
            assert self._process is not None
            os.kill(self._process.pid, signal.SIGSEGV)
            self._process.wait()
        return super().infer(feeds)


def test_a_process_that_crashes_fails_its_case_and_is_started_again(tmp_path: Path) -> None:
    path = Path(Toy().saved(tmp_path / "toy.onnx"))

    def feeds(value: float) -> dict[str, Array]:
        return {
            "image": np.full((1, 6), value, np.float32),
            "words": np.ones((1, 2, 4), np.float32),
            "mask": np.ones((1, 2), np.int64),
        }

    cases = [
        StressCase(named=(Named("corner", f"{value}"),), sizes={}, feeds=feeds(value)) for value in (1.0, 9.0, 2.0)
    ]
    reference, candidate = IsolatedOrtRunner(path, threads=1), Dying(path, threads=1)
    (found,) = compare(
        Side(what="ours", runner=reference),
        [Side(what="theirs", runner=candidate)],
        [Batch(feeds=feeds(1.0), labels={}, indices=(0,))],
        stress=cases,
    )
    assert verdicts(found) == ["pass", "fail", "pass"]
    assert "crashed (SIGSEGV)" in found.stress[1].note
    assert candidate.entered == 2


def test_integers_have_no_decibels(tmp_path: Path) -> None:
    def classes(feeds: Feeds) -> Array:
        return np.asarray(feeds["x"].astype(np.int64))

    def flipping(count: int) -> Callable[[Feeds], Array]:
        def function(feeds: Feeds) -> Array:
            found = classes(feeds)
            if found[0, 0] == 9:
                found.reshape(-1)[:count] = 0
            return found

        return function

    one = result(classes, flipping(1), case(9)).stress[0]
    assert one.verdict == "pass"
    assert one.outputs["y"].budget == {"non_finite": 0, "value_agreement": 0.75}
    assert one.outputs["y"].metrics["value_agreement"] == pytest.approx(5 / 6)
    two = result(classes, flipping(2), case(9)).stress[0]
    assert two.outputs["y"].why == ("value_agreement 0.66667 is below 0.75",)
