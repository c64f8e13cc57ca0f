"""NVIDIA ModelOpt: ONNX INT8 quantization, and AutoCast to FP16. Runs in an environment of its own."""

from __future__ import annotations

import tempfile
from pathlib import Path

import feeds
import numpy as np
import onnx
from modelopt.onnx.autocast import convert_to_mixed_precision
from modelopt.onnx.quantization import quantize


def run(model: Path, target: Path, samples: Path, count: int, batch: int, method: str) -> None:
    """Convert; `method` is `max` or `entropy` for INT8, `autocast` for FP16."""
    if method == "autocast":
        _autocast(model, target, samples, count, batch)
        return
    quantize(
        str(model),
        quantize_mode="int8",
        calibration_data_reader=feeds.Reader(samples, count, batch),
        calibration_method=method,
        calibration_eps=["cpu"],
        high_precision_dtype="fp16",
        output_path=str(target),
        log_level="ERROR",
    )


def _autocast(model: Path, target: Path, samples: Path, count: int, batch: int) -> None:
    """Ranges come from one batch, which is what AutoCast takes."""
    with tempfile.TemporaryDirectory() as folder:
        shown = Path(folder, "batch.npz")
        np.savez(shown, **next(feeds.batches(samples, count, batch)))
        made = convert_to_mixed_precision(
            str(model), low_precision_type="fp16", keep_io_types=True, calibration_data=str(shown), providers=["cpu"]
        )
    onnx.save(made, str(target))


if __name__ == "__main__":
    feeds.main(run)
