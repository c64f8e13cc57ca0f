"""How much memory an export takes, beside the bytes of the model's weights.

python benchmarks/export_memory.py [zoo:vqa-r101-bert] [--out benchmarks/results/cpu-2core/export_memory.json]

`mmtrt export --no-cache` runs in a fresh process. Its peak is the system's own count for it (VmHWM): PyTorch's
libraries, PyTorch's copy of the weights and all that export takes. The processes that it starts, ONNX Runtime for the
verification and TensorRT's parser, each have theirs. All of them together are sampled as proportional set size, where
a page that two processes share counts once, and as private memory, without the pages of mapped files.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mmtrt.artifacts import write_json
from mmtrt.machine import machine
from mmtrt.onnx_files import open_model
from mmtrt.onnx_mapped import weight_bytes

_LIMIT = 3.0
_INTERVAL_S = 0.1


def value(path: Path, name: str) -> int:
    """Return a row of a file of /proc in bytes, 0 where the process is gone."""
    with contextlib.suppress(OSError):
        found = re.search(rf"^{name}:\s+(\d+) kB", path.read_text(), re.MULTILINE)
        return int(found[1]) << 10 if found else 0
    return 0


def family(process: int) -> list[int]:
    """Return a process and all that it started; not one that is still the memory of its parent, before its exec."""
    with contextlib.suppress(OSError):
        own = Path(f"/proc/{process}/cmdline").read_bytes()
        children = [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
        started = [child for child in children if Path(f"/proc/{child}/cmdline").read_bytes() != own]
        return [process, *(p for child in started for p in family(child))]
    return [process]


def watched(command: list[str]) -> dict[str, Any]:
    """Run a command; return the peaks of its own process, of the largest that it started, and of all."""
    own = started = together = private = 0
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            alive = family(process.pid)
            own = max(own, value(Path(f"/proc/{process.pid}/status"), "VmHWM"))
            for child in alive[1:]:
                started = max(started, value(Path(f"/proc/{child}/status"), "VmHWM"))
            rollups = [Path(f"/proc/{p}/smaps_rollup") for p in alive]
            together = max(together, sum(value(rollup, "Pss") for rollup in rollups))
            private = max(private, sum(value(rollup, "Anonymous") for rollup in rollups))
            time.sleep(_INTERVAL_S)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return {
        "peak_bytes": own,
        "children_peak_bytes": started,
        "together_peak_bytes": together,
        "together_private_peak_bytes": private,
        "wall_s": round(time.perf_counter() - start, 1),
    }


def main() -> None:
    """Measure, print, and write the results; exit 1 beyond three times the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", default="zoo:vqa-r101-bert")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    imports = watched([sys.executable, "-c", "import mmtrt.export.exporter"])["peak_bytes"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mmtrt", "export", options.source, "-o", folder, "--no-cache", "--quiet"]
        peaks = watched(command)
        model = open_model(next(Path(folder).glob("*.onnx")))
        weights = sum(map(weight_bytes, model.graph.initializer))
    ratios = {name.removesuffix("_bytes"): round(peaks[name] / weights, 2) for name in peaks if name.endswith("_bytes")}
    result = {
        "schema": "mmtrt.benchmark/1",
        "benchmark": "export_memory",
        "machine": machine(),
        "source": options.source,
        "weights_bytes": weights,
        "imports_bytes": imports,
        **peaks,
        "ratio_to_weights": ratios,
        "limit": _LIMIT,
        "within": bool(ratios["peak"] <= _LIMIT),
    }
    print(json.dumps(result, indent=2))
    print(f"weights {weights / 2**20:.0f} MiB, peak {peaks['peak_bytes'] / 2**20:.0f} MiB: {ratios['peak']:.2f} times")
    if options.out:
        write_json(options.out, result)
    if not result["within"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
