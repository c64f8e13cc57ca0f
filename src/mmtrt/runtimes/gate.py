"""Lets work in until it is closed, and lets who closes it wait for what is inside."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mmtrt.errors import InputError

__all__ = ["Gate", "closed_error"]


def closed_error() -> InputError:
    """Return the error of whoever uses a session after its end."""
    return InputError("the session is closed", fix="Open a new one: mmtrt.Session(path).")


class Gate:
    """Any number of threads may be inside at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = threading.Condition(self._lock)
        self._inside = 0
        self._closed = False

    @property
    def inside(self) -> int:
        """How many are inside at this moment."""
        return self._inside

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Be inside; InputError once it is closed."""
        with self._lock:
            if self._closed:
                raise closed_error()
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                self._left.notify_all()

    def close(self) -> None:
        """Let nobody in any more, and wait for those who are inside."""
        with self._lock:
            self._closed = True
            while self._inside:
                self._left.wait()
