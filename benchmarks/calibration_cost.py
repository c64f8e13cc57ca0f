"""What calibration costs: wall time beside plain FP32 inference over the same samples, and peak memory.

    python benchmarks/calibration_cost.py [--rounds 5] [--counts 64 1024] [--out FILE]

The VQA model of the zoo is exported once. Each round converts it to INT8 with each number of samples, in a process
of its own and in turn; plain inference is timed beside it in a process of its own, over the same batches, all of
them. Both count the first run of their session, which allocates; only calibration counts reading the samples.
Medians of the rounds are printed.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from mmtrt.artifacts import write_json
from mmtrt.export.exporter import ExportOptions, export_model
from mmtrt.export.sources import load_source
from mmtrt.isolation import run_isolated
from mmtrt.machine import machine
from mmtrt.onnx_files import load_model, model_spec
from mmtrt.precision.convert import convert
from mmtrt.precision.observe import peak_rss_mib
from mmtrt.precision.options import PrecisionOptions
from mmtrt.runtimes.ort import session_from
from mmtrt.samples import batches, checked, open_set

SOURCE = "zoo:vqa-coattention"
BATCH = 12


def plain(model: Path, folder: str, count: int) -> dict[str, float]:
    """Seconds of FP32 inference over the set, batched as calibration does; peak memory of the process in MiB."""
    proto = load_model(model)
    spec = model_spec(proto)
    session = session_from(proto, "speed")
    names = [output.name for output in session.get_outputs()]
    spent = 0.0
    for batch in batches(checked(open_set(folder, count=count), spec), spec, size=BATCH):
        start = time.perf_counter()
        session.run(names, batch.feeds)
        spent += time.perf_counter() - start
    return {"inference_s": spent, "peak_rss_mib": peak_rss_mib()}


SETTINGS: dict[str, dict[str, Any]] = {"default": {}, "mse alone": {"method": "mse", "refine": ()}}
"""The default keeps rows of the layers' inputs beside the histograms; thresholds by MSE alone need none."""


def calibrated(model: Path, target: Path, folder: str, count: int, setting: str) -> dict[str, float]:
    """Seconds of the calibration pass, reading included; of the whole conversion; peak memory in MiB."""
    start = time.perf_counter()
    options = PrecisionOptions(precision="int8", batch=BATCH, **SETTINGS[setting])
    made = convert(model, target, options, samples=folder, count=count)
    assert made.calibration is not None  # noqa: S101 -- INT8 always has a record
    return {
        "wall_s": made.calibration.wall_s,
        "read_s": made.calibration.read_s,
        "conversion_s": time.perf_counter() - start,
        "peak_rss_mib": made.calibration.peak_rss_mib,
    }


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--counts", type=int, nargs="+", default=[64, 1024])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = export_model(load_source(SOURCE), folder, ExportOptions(calibration_samples=max(options.counts)))
        rows = [
            _measure(made.onnx, folder, made.calibration, count, setting, options.rounds)
            for setting in SETTINGS
            for count in options.counts
        ]
    result = {
        "schema": "mmtrt.benchmark/1",
        "benchmark": "calibration_cost",
        "model": SOURCE,
        "machine": {**machine(), "python": platform.python_version()},
        "rounds": options.rounds,
        "rows": rows,
        "peak_growth_mib": {
            setting: own[-1] - own[0]
            for setting in SETTINGS
            for own in [[row["peak_rss_mib"] for row in rows if row["setting"] == setting]]
        },
    }
    print(json.dumps(result, indent=2))
    if options.out:
        write_json(options.out, result)


def _measure(model: Path, folder: Path, samples: Path, count: int, setting: str, rounds: int) -> dict[str, Any]:
    observed, alone = [], []
    for _ in range(rounds):
        alone.append(run_isolated(plain, model, str(samples), count, what="plain inference"))
        target = folder / "out.onnx"
        observed.append(run_isolated(calibrated, model, target, str(samples), count, setting, what="calibration"))
    return {
        "setting": setting,
        "samples": count,
        "wall_s": statistics.median(row["wall_s"] for row in observed),
        "read_s": statistics.median(row["read_s"] for row in observed),
        "inference_s": statistics.median(row["inference_s"] for row in alone),
        "ratio": statistics.median(o["wall_s"] / a["inference_s"] for o, a in zip(observed, alone, strict=True)),
        "conversion_s": statistics.median(row["conversion_s"] for row in observed),
        "peak_rss_mib": statistics.median(row["peak_rss_mib"] for row in observed),
        "inference_peak_rss_mib": statistics.median(row["peak_rss_mib"] for row in alone),
    }


if __name__ == "__main__":
    # Processes of their own import these functions by the module's name.
    import calibration_cost

    calibration_cost.main()
