"""What commands print: one JSON document, or a table; progress and notes on stderr."""

from __future__ import annotations

import atexit
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmtrt.cli.failures import shown
from mmtrt.errors import MachineError

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
        self._out = sys.stdout
        if json:
            # stdout is for the one document: what a factory or a library prints goes to stderr.
            sys.stdout = sys.stderr
        self._status: Status | None = None
        self._begun = time.monotonic()

    def context(self, *, no_cache: bool = False) -> Context:
        """Return what the pipeline is given."""
        from mmtrt.artifacts import StageCache
        from mmtrt.pipeline.context import Context

        cache = StageCache(None) if no_cache else StageCache.default()
        if cache.root is not None:
            _make(cache.root)
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
            # An error leaves by another door; the cursor must come back there too.
            atexit.register(self.done)
        self._status.update(text)

    def note(self, text: str) -> None:
        """Tell something that the user should know."""
        if not self.quiet:
            print(f"note: {shown(text)}", file=sys.stderr, flush=True)  # noqa: T201

    def done(self) -> None:
        """Take the spinner away."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def result(self, data: Mapping[str, Any], view: RenderableType) -> None:
        """Print the document or the table."""
        self.done()
        if self.json:
            # ASCII: a file's name may hold what stdout can't encode.
            print(json.dumps(data, indent=2, allow_nan=False), file=self._out, flush=True)
            return
        from rich.console import Console

        # A table cut to a pipe's 80 columns would lose its last columns.
        wide = None if self._out.isatty() else 200
        Console(file=self._out, width=wide, highlight=False).print(view)
        self._out.flush()


def _make(cache: Path) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(
            f"the cache {cache} can't be used: {error.strerror}",
            fix="Set MMTRT_CACHE_DIR to a folder that can be written, or give --no-cache.",
        ) from error
