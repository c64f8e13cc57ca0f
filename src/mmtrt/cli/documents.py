"""The files that a check or a benchmark leaves for CI: JUnit XML, and Markdown for people who review."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmtrt.errors import MmtrtError, UsageError

if TYPE_CHECKING:
    from mmtrt.results import BenchResult, CheckResult

__all__ = ["Documents"]

_STEP = "GITHUB_STEP_SUMMARY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """Where a command's documents go. Without `summary` the Markdown goes to what GitHub says, where that is set."""

    candidate: str
    against: str
    junit: Path | None = None
    summary: Path | None = None
    command: str = "check"

    def check_names(self, read: Iterable[str | Path | None], written: Mapping[str, Path | None]) -> None:
        """Raise UsageError before any work, where a document has no file of its own to go to.

        `read` is what the command reads and `written` what else it writes, by its flag. To be called where no error is
        made a document yet: that would be written over the very file.
        """
        taken = {path.resolve(): flag for flag, path in written.items() if path is not None}
        taken |= {Path(one).resolve(): "what is read" for one in read if one}
        for flag, path in (("--junit", self.junit), ("--summary", self.summary)):
            if path is None:
                continue
            if not path.name or path.is_dir():
                raise UsageError(f"{flag} names no file: {str(path)!r}", fix="Name one; its folder is made.")
            other = taken.setdefault(path.resolve(), flag)
            if other != flag:
                raise UsageError(f"{flag} would write over {path}: that is {other}", fix="Give another name.")

    def verdict(self, check: CheckResult) -> None:
        """Write the documents of a check that has a result; MachineError where one can't be written."""
        from mmtrt.report.junit import junit
        from mmtrt.report.markdown import markdown

        self._write(junit(check), markdown(check))

    def measured(self, bench: BenchResult) -> None:
        """Write the documents of a benchmark; one that is no gate has a summary only where that is asked for."""
        from mmtrt.report.bench_documents import bench_junit, bench_markdown

        self._write(bench_junit(bench), bench_markdown(bench), judged=bench.gate is not None)

    @contextlib.contextmanager
    def of_errors(self) -> Iterator[None]:
        """Write the documents of a command that ends in an error, so that CI shows one; Ctrl-C leaves none."""
        try:
            yield
        except Exception as error:
            # Where they can't be written either, it is the first error that counts.
            with contextlib.suppress(MmtrtError, OSError):
                self._error(error)
            raise

    def _error(self, error: Exception) -> None:
        from mmtrt.report.junit import error_junit
        from mmtrt.report.markdown import error_markdown

        named = (
            (error.message, error.fix) if isinstance(error, MmtrtError) else (f"{type(error).__name__}: {error}", None)
        )
        told = (self.candidate, self.against, *named)
        judged = self.command == "check" or bool(self.against)
        documents = error_junit(*told, command=self.command), error_markdown(*told, command=self.command)
        self._write(*documents, judged=judged)

    def _write(self, junit: bytes, markdown: str, *, judged: bool = True) -> None:
        from mmtrt.artifacts import machine_errors, whole_file

        if self.junit is not None:
            with whole_file(self.junit) as part:
                part.write_bytes(junit)
        if self.summary is not None:
            with whole_file(self.summary) as part:
                part.write_text(markdown, encoding="utf-8")
        elif judged and os.environ.get(_STEP):
            with machine_errors(f"${_STEP}"), Path(os.environ[_STEP]).open("a", encoding="utf-8") as stream:
                # At once: other steps' tools append to it too.
                stream.write(markdown)
