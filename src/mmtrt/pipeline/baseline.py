"""An earlier check as a baseline: read, refused where it is of something else, and compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmtrt.artifacts import read_json
from mmtrt.errors import InputError
from mmtrt.parity.drift import drift_of
from mmtrt.results import CheckResult, Ran

__all__ = ["Baseline", "read_baseline"]

_CHECK = "mmtrt.check/1"
_RUN = "mmtrt.run/1"
_AGAIN = "Take the JSON of `mmtrt check --json` on the same model and samples."


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """An earlier check, and the file that holds it."""

    path: Path
    check: CheckResult

    def compared(self, now: CheckResult) -> CheckResult:
        """Return a check with its drift from the earlier one, failed where that is beyond what is tolerated.

        InputError where the earlier one was of another model, precision or set. A check without numbers, of an engine
        that is stale or out of time, has no drift.
        """
        if now.note:
            return now
        self._same(now)
        drift = drift_of(self.check, now)
        return replace(now, verdict="fail" if drift.worse else now.verdict, drift=drift.to_json(str(self.path)))

    def _same(self, now: CheckResult) -> None:
        before = self.check
        if not _same_model(before.candidate, now.candidate):
            raise InputError(
                f"the baseline {self.path} is of {_named(before.candidate)}, and this is {_named(now.candidate)}",
                fix="A baseline is an earlier check of the same model in the same precision.",
            )
        known, fed = before.sample_set.get("digest"), now.sample_set.get("digest")
        if known is None or known != fed:
            raise InputError(
                f"the baseline {self.path} is over other samples: "
                f"{before.samples} of {before.sample_set.get('source') or 'an unknown set'}, "
                f"these are {now.samples} of {now.sample_set.get('source')}",
                fix="Drift is told over the very same samples: name them with --samples, or make the baseline again.",
            )


def read_baseline(path: Path, candidate: str) -> Baseline:
    """Read the JSON of a check, or of a run that checked a candidate of this file name.

    InputError where it is no such JSON, or the check in it has no numbers to compare with.
    """
    data = read_json(path)
    row = _of_run(path, data, candidate) if isinstance(data, dict) and data.get("schema") == _RUN else data
    if not isinstance(row, dict) or row.get("schema") != _CHECK:
        told = row.get("schema") if isinstance(row, dict) else type(row).__name__
        raise InputError(f"the baseline {path} is no {_CHECK}: {told}", fix=_AGAIN)
    try:
        check = CheckResult.from_json(row)
        _sound(check)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"the baseline {path} can't be read: {type(error).__name__}: {error}", fix=_AGAIN) from error
    if check.note or not check.outputs:
        raise InputError(f"the baseline {path} has nothing to compare with: {check.note or check.verdict}", fix=_AGAIN)
    return Baseline(path=path, check=check)


def _of_run(path: Path, data: Mapping[str, Any], candidate: str) -> Any:
    checks = data.get("checks")
    rows = [row for row in checks if isinstance(row, dict)] if isinstance(checks, list) else []
    sides = [row.get("candidate") for row in rows]
    whats = [Path(str(side.get("what", "")) if isinstance(side, dict) else "").name for side in sides]
    name = Path(candidate).name
    if name not in whats:
        told = ", ".join(filter(None, whats)) or "nothing"
        raise InputError(f"the baseline {path} holds no check of {name}", fix=f"It holds those of {told}.")
    return rows[whats.index(name)]


def _sound(check: CheckResult) -> None:
    """Raise ValueError or OverflowError where a check holds what no check of ours writes: it is compared by numbers."""
    texts = [check.candidate.what, check.candidate.precision, check.candidate.model, check.note]
    texts += [text for case in check.stress for text in (case.kind, case.name, case.verdict)]
    rows = [*check.outputs.values(), *(row for case in check.stress for row in case.outputs.values())]
    if not all(isinstance(text, str) for text in (*texts, *(row.verdict for row in rows))):
        raise ValueError("a name is no text")
    if type(check.samples) is not int or check.samples < 1 or not isinstance(check.sample_set, Mapping):
        raise ValueError(f"it tells of {check.samples!r} samples")
    for row in rows:
        for metric, value in {**row.metrics, **row.task}.items():
            # JSON as Python reads it has NaN and infinities; we write None for them.
            if value is not None and (type(value) not in {int, float} or not math.isfinite(value)):
                raise ValueError(f"{metric} is {value!r}")


def _same_model(before: Ran, now: Ran) -> bool:
    """Tell whether two candidates are builds of one model in one precision: by its source, else by the file's name."""
    if before.precision != now.precision:
        return False
    if before.model and now.model:
        return before.model == now.model
    return Path(before.what).stem == Path(now.what).stem


def _named(ran: Ran) -> str:
    source = f" of {ran.model}" if ran.model else ""
    return f"{ran.what}{source} in {ran.precision or 'an unknown precision'}"
