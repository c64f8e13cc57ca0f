"""The errors that mmtrt raises: one tree, an exit code per kind.

::

    MmtrtError                70  a bug of ours, unless a subclass says otherwise
    ├── UsageError             2  the command line is wrong
    │   └── RecipeError        2  the recipe is wrong
    ├── InputError             3  an input is bad or missing
    │   ├── ModelError         3  the model, its checkpoint or its export
    │   └── SampleError        3  a calibration or parity set, or one sample of it
    ├── MachineError           4  this machine can't: no TensorRT, no GPU, wrong version, no memory, disk full
    ├── BuildError             5  the builder or the parser refused the model, or did not keep the precision
    └── MeasurementError       1  crashed, out of time or inconclusive while measuring
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "EXIT_BUDGET",
    "EXIT_INTERRUPTED",
    "BuildError",
    "InputError",
    "MachineError",
    "MeasurementError",
    "MmtrtError",
    "ModelError",
    "RecipeError",
    "SampleError",
    "UsageError",
]

EXIT_BUDGET = 1
"""Measured, and out of budget: a verdict, not an error."""

EXIT_INTERRUPTED = 130
"""Ctrl-C."""


class MmtrtError(Exception):
    """Says what failed and where (`message`), and how to mend it (`fix`)."""

    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, *, fix: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}\n{self.fix}" if self.fix else self.message

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders; the default would drop the keyword argument.
        return (_rebuild, (type(self), self.message, self.fix))


def _rebuild(kind: type[MmtrtError], message: str, fix: str | None) -> MmtrtError:
    return kind(message, fix=fix)


class UsageError(MmtrtError):
    """The command line is wrong."""

    exit_code = 2


class RecipeError(UsageError):
    """The recipe is wrong."""


class InputError(MmtrtError):
    """An input is bad or missing."""

    exit_code = 3


class ModelError(InputError):
    """The model, its checkpoint or its export is bad or missing."""


class SampleError(InputError):
    """A calibration or parity set, or one sample of it, is bad or missing."""


class MachineError(MmtrtError):
    """This machine can't: no TensorRT, no GPU, wrong version, no memory, disk full."""

    exit_code = 4


class BuildError(MmtrtError):
    """The parser or the builder refused the model, or did not keep the precision asked for."""

    exit_code = 5


class MeasurementError(MmtrtError):
    """A measurement crashed, ran out of time, or came out inconclusive."""

    exit_code = 1
