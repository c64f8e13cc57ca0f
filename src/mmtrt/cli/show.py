"""What commands print: one JSON document, or a table; progress and notes on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.status import Status

    from mmtrt.pipeline.context import Context

__all__ = ["Show"]


class Show:
    """A command's voice; `json` asks for one document on stdout, `quiet` for no progress and no notes."""

    def __init__(self, *, json: bool, quiet: bool) -> None:
        self.json = json
        self.quiet = quiet
        self._status: Status | None = None
        self._begun = time.monotonic()

    def context(self, *, no_cache: bool = False) -> Context:
        """Return what the pipeline is given."""
        from mmtrt.artifacts import StageCache
        from mmtrt.pipeline.context import Context

        cache = StageCache(None) if no_cache else StageCache.default()
        return Context(cache=cache, stage=self.stage, note=self.note)

    def stage(self, text: str) -> None:
        """Say what is being done: a spinner on a terminal, else a line."""
        if self.quiet:
            return
        if not sys.stderr.isatty():
            print(f"[{time.monotonic() - self._begun:6.1f} s] {text}", file=sys.stderr, flush=True)  # noqa: T201
            return
        if self._status is None:
            from rich.console import Console

            self._status = Console(stderr=True).status(text)
            self._status.start()
        self._status.update(text)

    def note(self, text: str) -> None:
        """Tell something that the user should know."""
        if not self.quiet:
            print(f"note: {text}", file=sys.stderr, flush=True)  # noqa: T201

    def done(self) -> None:
        """Take the spinner away."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def result(self, data: Mapping[str, Any], view: RenderableType) -> None:
        """Print the document or the table."""
        self.done()
        if self.json:
            print(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))  # noqa: T201
            return
        from rich.console import Console

        # A table cut to a pipe's 80 columns would lose its last columns.
        wide = None if sys.stdout.isatty() else 200
        Console(width=wide, highlight=False).print(view)
