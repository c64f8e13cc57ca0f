"""Contenders that may refuse the model, as a compiler does: they are tried before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from mmtrt.bench.contenders import Contender
from mmtrt.bench.queries import Shape, opened
from mmtrt.errors import MachineError, MeasurementError

__all__ = ["refusal"]


def refusal(
    contender: Contender, shapes: Sequence[Shape], stack: ExitStack, *, cuda_graph: bool, transfers: bool
) -> str:
    """Enter a contender's runner; of one that may refuse, run each shape once. Return why it can't run, else nothing.

    A runner that can't run is left again. Errors of one that may not refuse are raised.
    """
    if not contender.may_refuse:
        stack.enter_context(contender.runner)
        return ""
    with ExitStack() as tried:
        try:
            tried.enter_context(contender.runner)
            for shape in shapes:
                with opened(contender.runner, shape, cuda_graph=cuda_graph, transfers=transfers) as run:
                    run.once()
        except (MachineError, MeasurementError) as error:
            return error.message
        stack.push(tried.pop_all())
    return ""
