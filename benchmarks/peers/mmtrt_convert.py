"""mmtrt's own conversion, FP16 or INT8, as a tool among the others."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import feeds

from mmtrt.pipeline.structure import EnginePrice
from mmtrt.pipeline.targets import build_options, target_gpu
from mmtrt.precision.convert import convert
from mmtrt.precision.options import PrecisionOptions


def run(model: Path, target: Path, samples: Path, count: int, batch: int, method: str) -> dict[str, Any]:
    """Convert; `method` is `fp16`, or words for INT8: calibration method, coverage, refinements."""
    # Its batches are as large as the memory that it allows itself; `batch` is for tools that leave that to the user.
    del batch
    options = PrecisionOptions(precision="fp16")
    if method != "fp16":
        threshold, coverage, *refine = method.split()
        options = PrecisionOptions(precision="int8", method=threshold, coverage=coverage, refine=tuple(refine))
    # What the default coverage is judged by, as `mmtrt build` does it.
    gpu = target_gpu()
    price = EnginePrice(gpu=gpu, options=build_options()) if gpu is not None and options.coverage == "engine" else None
    made = convert(model, target, options, samples=str(samples), count=count, price=price)
    record = asdict(made.calibration) if made.calibration else {}
    # Where the samples lay is no result.
    return {"calibration": {name: value for name, value in record.items() if name not in {"source", "key"}}}


if __name__ == "__main__":
    feeds.main(run)
