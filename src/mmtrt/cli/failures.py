"""An error on its way out: words for people on stderr, a document on stdout where `--json` asked for one."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import tempfile
import traceback

import typer

import mmtrt
from mmtrt.errors import EXIT_INTERRUPTED, MachineError, MmtrtError

__all__ = ["explain_failure", "interrupted", "shown"]

_BUG = 70
_EXTRAS = {
    "onnx": "onnx",
    "onnx_ir": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "polygraphy": "onnx",
    "safetensors": "export",
    "torch": "export",
    "transformers": "hf",
}
"""The package that a command needs, and the extra that brings it."""
_BROKEN_PIPE = 141  # 128 + SIGPIPE, as of any tool that the shell's pipe ends.
# Typer carries a Click of its own, older ones import the package: whichever it is, this is its error.
_ClickError: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def interrupted() -> int:
    """Say that Ctrl-C was heard, and that nothing is half-written."""
    _say("interrupted", "Finished stages are kept: run it again and it goes on from there.", EXIT_INTERRUPTED)
    return EXIT_INTERRUPTED


def explain_failure(error: BaseException) -> int:
    """Print an error and return its exit code; the traceback of a bug goes to a file that the message names."""
    if isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError):
        # Click turns it into an exit 1, which is a verdict's code here.
        error = error.__context__
    if isinstance(error, SystemExit):
        if isinstance(error.code, str):
            _say(error.code, None, 1)
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        # The reader went away, `| head` say; no verdict was told: not 0.
        _hang_up()
        return _BROKEN_PIPE
    if isinstance(error, _ClickError):
        context = getattr(error, "ctx", None)
        hint = f"Try '{context.command_path} --help'." if context is not None else None
        _say(error.format_message(), hint, error.exit_code)  # type: ignore[attr-defined]
        return int(error.exit_code)  # type: ignore[attr-defined]
    error = _of_the_machine(error) or error
    if isinstance(error, MmtrtError) and error.exit_code != _BUG:
        _say(error.message, error.fix, error.exit_code)
        return error.exit_code
    _say(f"a bug of ours: {type(error).__name__}: {error}", f"The traceback is {_save(error)}: please report it.", _BUG)
    return _BUG


def _of_the_machine(error: BaseException) -> MachineError | None:
    """Say what a missing library, want of memory or an error of the system means; None for what is none of these."""
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        if package in _EXTRAS:
            return MachineError(f"{package} is not installed", fix=f"pip install 'mmtrt[{_EXTRAS[package]}]'")
    if isinstance(error, MemoryError):
        return MachineError("there is not enough memory", fix="Use a smaller batch or fewer samples.")
    if isinstance(error, OSError) and error.errno is not None:
        return MachineError(f"{error.strerror}: {error.filename or 'a file'}", fix="Check the disk and the rights.")
    return None


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def _say(message: str, fix: str | None, code: int) -> None:
    print(f"mmtrt: {shown(message)}", file=sys.stderr)  # noqa: T201 -- this is what prints
    if fix:
        print(f"  {shown(fix)}", file=sys.stderr)  # noqa: T201
    if "--json" in sys.argv:
        document = {"schema": "mmtrt.error/1", "error": message, "fix": fix, "exit_code": code}
        try:
            # ASCII: a file's name may hold what stdout can't encode.
            print(json.dumps(document), flush=True)  # noqa: T201
        except BrokenPipeError:
            _hang_up()


def shown(text: str) -> str:
    """Return a text that a terminal does not obey: an ONNX may name its nodes as it likes."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def _hang_up() -> None:
    """Give the rest of stdout to nobody: Python's own last flush would fail too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _save(error: BaseException) -> str:
    """Write the traceback to a file and say where it is; where no file can be written, give it itself."""
    lines = [
        f"mmtrt {mmtrt.__version__}, Python {sys.version}, {platform.platform()}\n",
        f"{' '.join(sys.argv)}\n\n",
        *traceback.format_exception(error),
    ]
    try:
        handle, name = tempfile.mkstemp(prefix="mmtrt-bug-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.writelines(lines)
    except OSError:
        return "\n" + "".join(lines)
    return f"in {name}"
