"""Run a function in a process of its own: native code that crashes, hangs or eats memory harms no other."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mmtrt.errors import MachineError, MeasurementError, MmtrtError

__all__ = ["CrashError", "child", "death", "end_children", "follow_parent", "main", "run_isolated"]

_Result = TypeVar("_Result")
_PDEATHSIG = 1
# `-m` would import from the current directory first, where whoever brings a bundle may have put a numpy.py.
_CHILD = """import sys
if sys.path[:1] == [""]:
    del sys.path[0]
from mmtrt.isolation import main
main(*sys.argv[1:])"""


_CHILDREN: set[subprocess.Popen[bytes]] = set()


@contextlib.contextmanager
def child(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Keep a process among those that `end_children` ends, while it is waited for."""
    _CHILDREN.add(process)
    try:
        yield
    finally:
        _CHILDREN.discard(process)


def end_children() -> None:
    """End the processes of native code that run, from whatever thread: who waits for one hears that it died."""
    for process in tuple(_CHILDREN):
        process.kill()


class CrashError(MeasurementError):
    """The process of the native code died: killed by a signal, or out of memory."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    value: Any = None
    error: MmtrtError | OSError | None = None
    trace: str = ""


def run_isolated(
    function: Callable[..., _Result], *args: Any, what: str, time_limit_s: float | None = None, **kwargs: Any
) -> _Result:
    """Call a module-level function in a fresh process and return its result.

    Arguments and result are pickled. An MmtrtError or an OSError crosses over as it is; a death by a signal is a
    CrashError that names `what`; a Ctrl-C here, or the death of this process, ends the other one too.
    """
    with tempfile.TemporaryDirectory(prefix="mmtrt-") as folder:
        call, reply, log = Path(folder, "call"), Path(folder, "reply"), Path(folder, "log")
        # The path first: the function and its arguments may need it to be found.
        call.write_bytes(pickle.dumps(sys.path) + pickle.dumps((function, args, kwargs)))
        command = [sys.executable, "-c", _CHILD, str(call), str(reply), str(os.getpid())]
        # This very mmtrt, also where it runs from a source tree.
        path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                env={**os.environ, "PYTHONPATH": path},
            )
            with child(process):
                try:
                    code = process.wait(time_limit_s)
                except subprocess.TimeoutExpired:
                    raise MeasurementError(f"{what} did not end within {time_limit_s:g} s") from None
                finally:
                    if process.poll() is None:
                        process.kill()
                        process.wait()
        if code != 0 or not reply.exists():
            raise death(what, code, log.read_text(errors="replace"))
        outcome: _Outcome = pickle.loads(reply.read_bytes())  # noqa: S301 -- our own child wrote it
    if outcome.error is not None:
        raise outcome.error
    if outcome.trace:
        raise RuntimeError(f"{what} failed in its own process:\n{outcome.trace}")
    return outcome.value  # type: ignore[no-any-return]


def death(what: str, code: int, log: str) -> MmtrtError:
    """Return the error that says how a process died: killed for want of memory, crashed, or ended with a code."""
    tail = "\n".join(log.strip().splitlines()[-15:])
    if code == -signal.SIGKILL:
        return MachineError(
            f"{what} was killed, most likely for want of memory",
            fix="Free memory, or give it a smaller batch.",
        )
    if code < 0:
        names = {number.value: number.name for number in signal.Signals}
        return CrashError(f"{what} crashed ({names.get(-code, f'signal {-code}')})\n{tail}".rstrip())
    return CrashError(f"{what} ended with code {code}\n{tail}".rstrip())


def follow_parent(parent: int) -> None:
    """Die with the parent, however it dies (Linux)."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)


def main(call: str, reply: str, parent: str) -> None:
    """Run the call that the file `call` describes, and write its outcome to the file `reply`."""
    follow_parent(int(parent))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent hears Ctrl-C, and ends this process.
    try:
        with Path(call).open("rb") as stream:
            path = pickle.load(stream)  # noqa: S301 -- our parent wrote it
            sys.path.extend(entry for entry in path if entry not in sys.path)
            function, args, kwargs = pickle.load(stream)  # noqa: S301
        data = pickle.dumps(_Outcome(value=function(*args, **kwargs)))
    except Exception as error:  # noqa: BLE001 -- whatever it was, the parent tells it
        data = pickle.dumps(_failure(error))
    part_file = Path(f"{reply}.part")
    part_file.write_bytes(data)
    part_file.replace(reply)
    # Native libraries can crash on their way out; the result is already safe.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _failure(error: Exception) -> _Outcome:
    if isinstance(error, MemoryError):
        error = MachineError("there is not enough memory", fix="Free memory, or give it a smaller batch.")
    if isinstance(error, MmtrtError) or (isinstance(error, OSError) and error.errno is not None):
        return _Outcome(error=error)
    return _Outcome(trace="".join(traceback.format_exception(error)))
