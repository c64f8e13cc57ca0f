"""ONNX Runtime in a process of its own, behind the Runner contract: its crash is an error here, no more."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mmtrt.errors import MmtrtError
from mmtrt.isolation import child, death, follow_parent
from mmtrt.tensors import Array, Feeds, TensorSpec

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["IsolatedOrtRunner"]

_GOES_S = 10.0
"""How long a child may take to go by itself."""


class IsolatedOrtRunner:
    """Runs an ONNX file in a child process, one request at a time.

    A crash of the native code raises CrashError at the request that it met; the samples before it are not lost.
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        self._path = path
        self._threads = threads
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._log: IO[bytes] | None = None
        self._about: dict[str, Any] = {}
        self._listed = contextlib.ExitStack()

    @property
    def runs(self) -> str:
        """ONNX Runtime's version and device, as the child tells them."""
        return str(self._about["runs"])

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs, in the graph's order."""
        return tuple(self._about["inputs"])

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs, in the graph's order."""
        return tuple(self._about["outputs"])

    def __enter__(self) -> Self:
        ours, theirs = socket.socketpair()
        self._log = tempfile.TemporaryFile()
        try:
            command = [
                sys.executable,
                "-m",
                "mmtrt.runtimes.isolated",
                str(theirs.fileno()),
                str(os.getpid()),
            ]
            path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env={**os.environ, "PYTHONPATH": path},
            )
            self._listed.enter_context(child(self._process))
            theirs.close()
            self._connection = Connection(ours.detach())
            self._about = self._ask(("open", self._path, self._threads))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            # A child that waits for a request hears the end of them and goes by itself; one amid a run does not.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_GOES_S if not any(exc) else 0)
            self._process.kill()
            self._process.wait()
        self._listed.close()
        if self._log is not None:
            self._log.close()
        self._connection = self._process = self._log = None

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        """Run once in the child."""
        outputs: dict[str, Array] = self._ask(("infer", dict(feeds)))
        return outputs

    def _ask(self, request: tuple[Any, ...]) -> Any:
        if self._connection is None or self._process is None or self._log is None:
            raise RuntimeError("the runner is used outside its with-block")
        try:
            self._connection.send_bytes(pickle.dumps(request, protocol=5))
            reply = pickle.loads(self._connection.recv_bytes())  # noqa: S301 -- our own child sent it
        except (EOFError, ConnectionError, BrokenPipeError):
            code = self._process.wait()
            self._log.seek(0)
            what = f"ONNX Runtime on {self._path}"
            raise death(what, code, self._log.read().decode(errors="replace")) from None
        if isinstance(reply, BaseException):
            raise reply
        return reply


def serve(descriptor: int, parent: int) -> None:
    """Answer requests on a socket until it closes: what the child runs."""
    follow_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from mmtrt.runtimes.ort import OrtRunner

    connection = Connection(descriptor)
    runner: OrtRunner | None = None
    while True:
        try:
            kind, *rest = pickle.loads(connection.recv_bytes())  # noqa: S301 -- our own parent sent it
        except EOFError:
            os._exit(0)
        reply: Any
        try:
            if kind == "open":
                runner = OrtRunner(rest[0], "parity", threads=rest[1]).__enter__()
                reply = {"runs": runner.runs, "inputs": runner.inputs, "outputs": runner.outputs}
            else:
                assert runner is not None  # noqa: S101 -- the parent opens first
                reply = runner.infer(rest[0])
        except MmtrtError as error:
            reply = error
        except Exception as error:  # noqa: BLE001 -- the parent raises it
            reply = RuntimeError(f"{type(error).__name__}: {error}")
        connection.send_bytes(pickle.dumps(reply, protocol=5))


if __name__ == "__main__":
    # Pickle must find the classes under the module's own name, not under __main__.
    from mmtrt.runtimes.isolated import serve as run

    run(int(sys.argv[1]), int(sys.argv[2]))
