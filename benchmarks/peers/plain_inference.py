"""Plain FP32 inference over a set on ONNX Runtime: what each tool's time is held against."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import feeds
import onnxruntime as ort


def run(model: Path, target: Path, samples: Path, count: int, batch: int, method: str) -> dict[str, Any]:  # noqa: ARG001
    """Time the runs alone; reading the samples, opening the session and its first run are left out."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    session.run(None, next(feeds.batches(samples, count, batch)))
    spent = 0.0
    for given in feeds.batches(samples, count, batch):
        start = time.perf_counter()
        session.run(None, given)
        spent += time.perf_counter() - start
    return {"inference_s": spent}


if __name__ == "__main__":
    feeds.main(run)
