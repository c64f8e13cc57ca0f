"""A check within a time limit: it ends in a verdict, also where native code hangs."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING

from mmtrt.errors import EXIT_BUDGET, MeasurementError
from mmtrt.isolation import end_children
from mmtrt.pipeline.checking import CheckRequest, check_files
from mmtrt.pipeline.context import Context, Partial
from mmtrt.results import CheckResult, Ran

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["check_within"]

_GRACE_S = 3.0
"""How long the thread that checks may take to come back once its processes have ended."""
_NOTICE_S = 0.5
"""How long the thread that checks may take to notice by itself, at the next batch: then nothing need be ended."""
_AGAIN_S = 0.05
"""A thread that is about to start a process may do so after the others were ended: they are ended again."""


class _OutOfTimeError(MeasurementError):
    """Raised in the thread that checks, where it next says what it does."""


def check_within(
    context: Context,
    request: CheckRequest,
    limit_s: float | None,
    told: Callable[[CheckResult], None],
    *,
    then: Callable[[Context, CheckResult], CheckResult] = lambda _, result: result,
) -> CheckResult:
    """Check files; after `limit_s` seconds return what is known by then, as `inconclusive`.

    `then` adds to a result what is worth the time that is left; where that runs out, the verdict stands without.
    Where the thread that checks does not come back, in native code that hangs, another one tells the result, with
    `told`, and ends this process with the exit code of a verdict. No process that was started stays.
    """
    if limit_s is None:
        return then(context, check_files(context, request))
    done: list[CheckResult] = []

    def known(partial: Partial) -> CheckResult:
        return done[0] if done else _out_of_time(request, limit_s, partial)

    def hung(partial: Partial) -> int:
        result = known(partial)
        told(result)
        return 0 if result.verdict == "pass" else EXIT_BUDGET

    with _Watch(limit_s, hung) as watch:
        try:
            watched = watch.watched(context)
            done.append(check_files(watched, request))
            return then(watched, done[0])
        except Exception:
            # Whatever it was, a process that was ended amid its work is the cause.
            if not watch.expired:
                raise
            if done:
                context.note(f"out of time after {limit_s:g} s: the verdict stands, and what was to follow is left out")
            return known(watch.partial)


class _Watch:
    """A thread that ends the processes of native code once the time is out, and then waits no longer than a grace."""

    def __init__(self, limit_s: float, hung: Callable[[Partial], int]) -> None:
        self.expired = False
        self.partial: Partial = list
        # No lock waits longer.
        self._limit_s = min(limit_s, threading.TIMEOUT_MAX)
        self._hung = hung
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def watched(self, context: Context) -> Context:
        """Return a context that raises where a stage begins after the time is out."""

        def stage(text: str) -> None:
            if self.expired:
                raise _OutOfTimeError("the time is out")
            context.stage(text)

        return replace(context, stage=stage, so_far=self._keep)

    def _keep(self, partial: Partial) -> None:
        self.partial = partial

    def _watch(self) -> None:
        if self._done.wait(self._limit_s):
            return
        self.expired = True
        if self._done.wait(_NOTICE_S):
            return
        # The thread that checks waits for native code: what it makes of that one's end is no result.
        known = self.partial()
        self.partial = lambda: known
        until = time.monotonic() + _GRACE_S
        while not self._done.wait(_AGAIN_S) and time.monotonic() < until:
            end_children()
        if self._done.is_set():
            return
        code = EXIT_BUDGET
        try:
            told = self._hung(self.partial)
            sys.stdout.flush()
            sys.stderr.flush()
            code = told
        finally:
            os._exit(code)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()


def _out_of_time(request: CheckRequest, limit_s: float, partial: Partial) -> CheckResult:
    note = f"out of time after {limit_s:g} s"
    found = partial()
    known = (
        found[0]
        if found
        else CheckResult(
            verdict="inconclusive",
            candidate=Ran(what=request.candidate, runs=""),
            reference=Ran(what=request.against, runs=""),
            samples=0,
            outputs={},
        )
    )
    return replace(known, verdict="inconclusive", note=note)
