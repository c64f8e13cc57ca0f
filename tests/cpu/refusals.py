"""The command line run in this process, and what a refusal must look like."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    code: object
    out: str
    err: str


Cli = Callable[..., Said]


def assert_refused(said: Said, code: int, *words: str) -> None:
    """The code, the words (names and the mend), and no trace in `made/` or in the cache."""
    assert said.code == code, said.err
    for word in words:
        assert word in said.err
    assert not Path("made").exists() or not list(Path("made").iterdir())
    assert not [path for path in Path(os.environ["MMTRT_CACHE_DIR"]).rglob("*.part") if _ours(path)]


def _ours(part: Path) -> bool:
    """Whether this process writes there: others that run tests beside it share the cache."""
    return int(part.name.split(".")[-3]) == os.getpid()


def assert_told(said: Said, code: int, *words: str) -> None:
    """A refusal of one message, with a line below it that says how to mend it."""
    assert_refused(said, code, *words)
    message = [line for line in said.err.splitlines() if line.startswith("mmtrt: ")]
    assert len(message) == 1
    assert said.err.rstrip().splitlines()[-1].startswith("  "), "no line says how to mend it"
