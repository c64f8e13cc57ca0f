"""How long `mmtrt --help` takes beside `python -c 'import typer'`, in turn in one run.

python benchmarks/startup.py [--rounds 15] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from mmtrt.artifacts import write_json
from mmtrt.machine import machine


def seconds(command: list[str]) -> float:
    """Wall time of one run."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    ours, typers = [sys.executable, "-m", "mmtrt", "--help"], [sys.executable, "-c", "import typer"]
    seconds(ours), seconds(typers)  # once, for the files to be in memory
    pairs = [(seconds(ours), seconds(typers)) for _ in range(options.rounds)]
    result = {
        "schema": "mmtrt.benchmark/1",
        "benchmark": "startup",
        "machine": machine(),
        "rounds": options.rounds,
        "help_s": statistics.median(a for a, _ in pairs),
        "import_typer_s": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(a / b for a, b in pairs),
    }
    print(json.dumps(result, indent=2))
    if options.out:
        write_json(options.out, result)


if __name__ == "__main__":
    main()
