"""What may differ between two conversions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from mmtrt.errors import UsageError
from mmtrt.precision.plan import COVERAGES
from mmtrt.precision.thresholds import METHODS

__all__ = ["REFINED", "REFINEMENTS", "PrecisionOptions", "check_options"]

REFINEMENTS = ("balance", "compensate", "round", "bias")
REFINED = ("balance", "round", "bias")
"""What is done unless asked otherwise; what each gains stands in docs/decisions/0007."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionOptions:
    """What may differ between two conversions.

    `keep` names nodes or modules that stay out of INT8 or FP16; `batch` is how many samples run at once, None for as
    many as the memory meant for them takes; `budget` is the parity budget that the result carries; `refine` names what
    is done to weights and biases beside rounding them, see `precision/tune.py`.
    """

    precision: str
    method: str = "auto"
    coverage: str = "wide"
    keep: tuple[str, ...] = ()
    batch: int | None = None
    budget: Mapping[str, float] = field(default_factory=dict)
    refine: tuple[str, ...] = REFINED


def check_options(options: PrecisionOptions) -> None:
    """Raise UsageError for a word that is none, with the nearest one that is."""
    if options.precision not in {"fp32", "fp16", "int8"}:
        raise UsageError(f"unknown precision {options.precision!r}", fix="Known are fp32, fp16 and int8.")
    _known("calibration method", options.method, ("auto", *METHODS))
    _known("coverage", options.coverage, COVERAGES)
    for name in options.refine:
        _known("refinement", name, REFINEMENTS)


def _known(what: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        near = get_close_matches(given, known, n=1)
        raise UsageError(
            f"unknown {what} {given!r}", fix=f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(known)}."
        )
