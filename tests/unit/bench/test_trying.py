from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
from timed_fakes import FEEDS, Clock, Fake

from mmtrt.bench.contenders import Contender
from mmtrt.bench.measure import Settings, sweep
from mmtrt.bench.queries import Shape
from mmtrt.errors import InputError, MachineError, MeasurementError, MmtrtError
from mmtrt.report.bench import bench_view
from mmtrt.results import BenchResult
from mmtrt.tensors import Array, Feeds

if TYPE_CHECKING:
    from typing_extensions import Self


class Refusing(Fake):
    """Raises when it is entered, or from some run on."""

    def __init__(self, clock: Clock, error: MmtrtError, *, entering: bool = False, after: int = 0) -> None:
        super().__init__(clock, 1.0)
        self.error = error
        self.entering = entering
        self.after = after

    def __enter__(self) -> Self:
        if self.entering:
            raise self.error
        self.open = True
        return self

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        if self.calls >= self.after:
            raise self.error
        return super().infer(feeds)


REFUSED = MeasurementError("torch.compile in fp32 refuses the model: no kernel")


def measured(clock: Clock, runner: Fake, shapes: int = 1, *, may_refuse: bool = True) -> BenchResult:
    contenders = [
        Contender(file="compiled", runner=runner, may_refuse=may_refuse),
        Contender(file="a.onnx", runner=Fake(clock, 5)),
        Contender(file="b.onnx", runner=Fake(clock, 10)),
    ]
    return sweep(contenders, [Shape(feeds=FEEDS)] * shapes, Settings(duration_s=0.1))


def test_what_refuses_the_model_is_told_and_the_others_are_measured(clock: Clock) -> None:
    runner = Refusing(clock, REFUSED)
    result = measured(clock, runner)
    assert result.not_run == {"compiled": REFUSED.message}
    assert [row.file for row in result.results] == ["a.onnx", "b.onnx"]
    assert result.ratio is not None
    assert result.ratio["b.onnx"]["against"] == "a.onnx"
    assert not runner.open
    shown = io.StringIO()
    Console(file=shown, width=200).print(bench_view(result))
    assert f"not run: compiled: {REFUSED.message}" in shown.getvalue()


def test_what_can_t_be_loaded_here_is_told_too(clock: Clock) -> None:
    result = measured(clock, Refusing(clock, MachineError("no C++ compiler"), entering=True))
    assert result.not_run == {"compiled": "no C++ compiler"}


def test_each_shape_is_tried_before_anything_is_measured(clock: Clock) -> None:
    runner = Refusing(clock, REFUSED, after=1)
    assert measured(clock, runner, shapes=2).not_run == {"compiled": REFUSED.message}
    assert runner.calls == 1


@pytest.mark.parametrize("error", [InputError("no such source"), KeyError("a bug")])
def test_a_wrong_input_is_no_refusal(clock: Clock, error: MmtrtError) -> None:
    with pytest.raises(type(error)):
        measured(clock, Refusing(clock, error))


def test_what_was_asked_for_by_name_may_not_refuse(clock: Clock) -> None:
    with pytest.raises(MeasurementError):
        measured(clock, Refusing(clock, REFUSED), may_refuse=False)


def test_what_does_not_refuse_is_measured(clock: Clock) -> None:
    runner = Fake(clock, 2)
    result = measured(clock, runner)
    assert (len(result.results), result.not_run) == (3, {})
    assert not runner.open
