"""`mmtrt`: the commands, and what an error becomes on the way out."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import typer

from mmtrt.cli import commands
from mmtrt.cli.failures import explain_failure, interrupted
from mmtrt.errors import EXIT_INTERRUPTED

app = typer.Typer(
    name="mmtrt",
    help="Takes trained PyTorch models that fuse several modalities to NVIDIA TensorRT, and proves every step.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done and within budget, 1 out of budget, 2 command line or recipe, 3 bad input, "
    "4 this machine can't, 5 the builder refused, 130 Ctrl-C, 70 a bug of ours.",
)
commands.register(app)


@app.callback(invoke_without_command=True)
def _mmtrt(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),  # noqa: FBT001, FBT003
) -> None:
    if version:
        import mmtrt

        print(mmtrt.__version__)  # noqa: T201 -- what was asked for
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())  # noqa: T201
        raise typer.Exit


def main() -> NoReturn:
    """Run the command line, and leave with the exit code that design and README promise."""
    _open_streams()
    try:
        code = _run()
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        code = interrupted()
    except BaseException as error:  # noqa: BLE001 -- the last line before the shell
        code = explain_failure(error)
    sys.exit(code if isinstance(code, int) else 0)


def _run() -> object:
    # A command with --json puts stderr in the place of stdout, see Show; an error's document needs stdout again.
    stdout = sys.stdout
    try:
        code: object = app(standalone_mode=False)
    finally:
        sys.stdout = stdout
    if code == EXIT_INTERRUPTED:
        # Typer makes a code of it, and says nothing.
        raise KeyboardInterrupt
    return code


def _open_streams() -> None:
    """Open what the caller closed (`<&-`, `>&-`): else the next file opened takes its number, and what it is told."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 -- open to the end
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    if hasattr(sys.stdout, "reconfigure"):
        # A file's name may hold bytes that are no UTF-8.
        sys.stdout.reconfigure(errors="backslashreplace")
