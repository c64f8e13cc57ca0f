"""The lanes of an engine, lent to one thread each; closing waits for those that are out."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType

from mmtrt.errors import MachineError, UsageError
from mmtrt.runtimes.engines.lane import Lane
from mmtrt.runtimes.gate import Gate, closed_error

__all__ = ["Loan", "Pool"]


class Loan:
    """A lane that is out from `begin` until `end`, or at the latest until nobody holds the loan.

    A Ctrl-C may come between any two steps. So a lane is out exactly while it has a holder, which is set and cleared
    in one step, and to give back twice is to do it once. One that was left behind, since the Ctrl-C came before `end`,
    is ended by the next that its thread does with the pool.
    """

    _lane: Lane | None = None

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._spoilt = False
        self._thread = threading.get_ident()
        # The frame that began it, which lives as long as the loan: it is not held, since it holds the loan.
        self._user = 0

    def begin(self) -> Lane:
        """Return a lane, once one is free; InputError where the pool is closed."""
        self._user = id(sys._getframe(1))  # noqa: SLF001 -- Python's way to ask who calls
        self._pool.lend(self)
        return self.lane

    @property
    def lane(self) -> Lane:
        """The lane, while the loan lasts."""
        if self._lane is None:
            raise RuntimeError("there is no lane: it was given back, or never lent")
        return self._lane

    def hold(self, lane: Lane) -> None:
        """For the pool: this is the lane."""
        self._lane = lane
        lane.holder = self

    @property
    def mine(self) -> bool:
        """Whether this thread began it."""
        return self._thread == threading.get_ident()

    @property
    def left_behind(self) -> bool:
        """Whether this thread began it, and is no longer in what began it."""
        frame: FrameType | None = sys._getframe()  # noqa: SLF001 -- the stack, without the sources that inspect reads
        while frame is not None and id(frame) != self._user:
            frame = frame.f_back
        return self.mine and frame is None

    def spoil(self) -> None:
        """Say that the lane is in no known state: it will be closed, and another one made when it is needed."""
        self._spoilt = True

    def end(self) -> None:
        """Give the lane back; a second call does nothing."""
        lane = self._lane
        if lane is not None:
            try:
                self._pool.take_back(self, lane, spoilt=self._spoilt)
            except BaseException:
                self._pool.take_back(self, lane, spoilt=True)
                raise
            finally:
                self._lane = None

    def __del__(self) -> None:
        if self._lane is not None:
            self._spoilt = True
            self.end()


class Pool:
    """At most `limit` lanes, made when they are needed; the one that was made first is lent first.

    `guests` lets in work on lanes of the caller's own, which `close` waits for too.
    """

    def __init__(self, make: Callable[[], Lane], limit: int) -> None:
        self._make = make
        self._limit = limit
        # A signal's handler may come back to it within a run.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._all: list[Lane] = []
        self._making: set[Loan] = set()
        self.guests = Gate()
        self._closed = False

    @property
    def idle(self) -> bool:
        """Whether nothing is under way at this moment."""
        return not (self._making or self.guests.inside or self._out())

    def _out(self) -> list[Loan]:
        return [lane.holder for lane in tuple(self._all) if isinstance(lane.holder, Loan)]

    def _end_left_behind(self) -> None:
        for loan in (*self._out(), *self._making):
            if loan.left_behind:
                loan.spoil()
                loan.end()
                self._making.discard(loan)

    def lend(self, loan: Loan) -> None:
        """Give the loan a lane, waiting for one where all are out; InputError once the pool is closed."""
        with self._lock:
            while True:
                if self._closed:
                    raise closed_error()
                free = next((lane for lane in self._all if lane.holder is None), None)
                if free is not None:
                    loan.hold(free)
                    return
                if len(self._all) + len(self._making) < self._limit:
                    self._making.add(loan)
                    break
                self._end_left_behind()
                out = self._out()
                if len(out) == self._limit and all(other.mine for other in out):
                    raise _waits_for_itself()
                if len(out) + len(self._making) >= self._limit:
                    self._changed.wait()
        self._lend_new(loan)

    def _lend_new(self, loan: Loan) -> None:
        no_room = False
        try:
            lane = self._make()
            loan.hold(lane)
            self._all.append(lane)
        except MachineError:
            no_room = bool(self._all)
            if not no_room:
                raise
        finally:
            with self._lock:
                self._making.discard(loan)
                if no_room:
                    # There is no room for one more: the others do it all.
                    self._limit = len(self._all) + len(self._making)
                self._changed.notify_all()
        if no_room:
            self.lend(loan)

    def take_back(self, loan: Loan, lane: Lane, *, spoilt: bool) -> None:
        """Take back a lane that the loan still holds."""
        if lane.holder is not loan:
            return
        try:
            if spoilt:
                lane.close()
        finally:
            with self._lock:
                if spoilt:
                    self._all = [other for other in self._all if other is not lane]
                lane.holder = None
                self._changed.notify_all()

    def check_closable(self) -> None:
        """Raise UsageError where `close` would wait for a run of this very thread."""
        with self._lock:
            self._end_left_behind()
            if any(loan.mine for loan in (*self._out(), *self._making)):
                raise _waits_for_itself()

    def close(self) -> None:
        """Refuse new loans, wait for those that are out, and close all lanes; a second call waits for the first."""
        with self._lock:
            self._closed = True
            self._changed.notify_all()
        self.guests.close()
        with self._lock:
            while self._making or self._out():
                self._changed.wait()
            lanes, self._all = self._all, []
        with ExitStack() as stack:
            for lane in lanes:
                stack.callback(lane.close)


def _waits_for_itself() -> UsageError:
    return UsageError(
        "a run is under way in this thread, which would wait for itself",
        fix="Close or run the session after that run: in a signal's handler set a flag, and look at it between runs.",
    )
