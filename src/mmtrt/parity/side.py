"""One side of a check, and running several at the same time."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from mmtrt.errors import MachineError, MmtrtError
from mmtrt.isolation import CrashError
from mmtrt.parity.budget import Budget
from mmtrt.runtimes import Runner
from mmtrt.runtimes.isolated import IsolatedOrtRunner
from mmtrt.tensors import Array, Feeds

__all__ = ["Answer", "Side", "attempts", "together"]

Answer = dict[str, Array] | Exception
"""A side's outputs, or why it gave none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One side of a check: what it is called, its precision, what runs it, and its budgets (candidates).

    `budget` is for the samples, `stress` for the hard cases: `KIND/METRIC` and `KIND/OUTPUT:METRIC`.
    """

    what: str
    runner: Runner
    precision: str = ""
    budget: Budget = field(default_factory=dict)
    stress: Budget = field(default_factory=dict)


def together(pool: ThreadPoolExecutor, runners: Sequence[Runner], feeds: Feeds) -> list[dict[str, Array]]:
    """Run all sides on a batch; those with a process of their own at the same time, the others in this thread.

    A small operator uses one core, so processes side by side are quicker; CUDA contexts and TensorRT's log are a
    thread's own.
    """
    waiting = {i: pool.submit(r.infer, feeds) for i, r in enumerate(runners) if isinstance(r, IsolatedOrtRunner)}
    own = {i: runner.infer(feeds) for i, runner in enumerate(runners) if i not in waiting}
    return [waiting[i].result() if i in waiting else own[i] for i in range(len(runners))]


def attempts(pool: ThreadPoolExecutor, runners: Sequence[Runner], feeds: Feeds) -> list[Answer]:
    """Run all sides as `together` does, each as if it were alone: what one of them raises is its answer."""
    waiting = {i: pool.submit(attempt, r, feeds) for i, r in enumerate(runners) if isinstance(r, IsolatedOrtRunner)}
    own = {i: attempt(runner, feeds) for i, runner in enumerate(runners) if i not in waiting}
    return [waiting[i].result() if i in waiting else own[i] for i in range(len(runners))]


def attempt(runner: Runner, feeds: Feeds) -> Answer:
    """Return the outputs, or what was raised; a process that died is started again for what comes next."""
    try:
        return runner.infer(feeds)
    except (CrashError, MachineError) as error:
        if isinstance(runner, IsolatedOrtRunner):
            runner.__exit__(type(error), error, None)
            # One that can't be started again says so at each case that it fails.
            with contextlib.suppress(MmtrtError):
                runner.__enter__()
        return error
    except Exception as error:  # noqa: BLE001 -- whatever a model raises, the case tells it
        return error
