"""Start the command beside the test, so that it can be stopped amid its work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

__all__ = ["hear_ctrl_c", "start"]


def start(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    """Start the command in `folder`, in a process group of its own, with a cache of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "mmtrt", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "MMTRT_CACHE_DIR": str(folder / "cache")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=hear_ctrl_c,  # noqa: PLW1509 -- the tests have no threads that hold locks
    )


def hear_ctrl_c() -> None:
    """A shell that starts a job in the background has it ignore Ctrl-C, and what it starts inherits that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
