"""mmtrt's own conversion, FP16 or INT8, as a tool among the others."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import feeds

from mmtrt.precision.convert import PrecisionOptions, convert


def run(model: Path, target: Path, samples: Path, count: int, batch: int, method: str) -> dict[str, Any]:
    """Convert; `method` is `fp16`, or words for INT8: calibration method, coverage, refinements."""
    # Its batches are as large as the memory that it allows itself; `batch` is for tools that leave that to the user.
    del batch
    options = PrecisionOptions(precision="fp16")
    if method != "fp16":
        threshold, coverage, *refine = method.split()
        options = PrecisionOptions(precision="int8", method=threshold, coverage=coverage, refine=tuple(refine))
    made = convert(model, target, options, samples=str(samples), count=count)
    record = asdict(made.calibration) if made.calibration else {}
    # Where the samples lay is no result.
    return {"calibration": {name: value for name, value in record.items() if name not in {"source", "key"}}}


if __name__ == "__main__":
    feeds.main(run)
