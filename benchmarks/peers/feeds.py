"""Reads a calibration set for the peers' tools. Needs numpy only, as it runs in their environments too."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np


def batches(folder: Path, count: int, size: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield samples of equal shapes stacked by `size`, in the order in which mmtrt stacks them."""
    waiting: dict[Any, list[dict[str, np.ndarray]]] = {}
    for file in sorted(folder.glob("*.npz"))[:count]:
        with np.load(file) as data:
            sample = {name: data[name] for name in data.files if not name.startswith(("label.", "output."))}
        group = waiting.setdefault(tuple((n, a.shape) for n, a in sample.items()), [])
        group.append(sample)
        if len(group) == size:
            yield stacked(group)
            group.clear()
    yield from (stacked(group) for group in waiting.values() if group)


def stacked(samples: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """One batch of samples."""
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


class Reader:
    """What ONNX Runtime's quantizer, and ModelOpt through it, asks for batches: `get_next` until None, and `rewind`."""

    def __init__(self, folder: Path, count: int, size: int) -> None:
        self._make = lambda: batches(folder, count, size)
        self._now = self._make()

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch, None after the last."""
        return next(self._now, None)

    def get_first(self) -> dict[str, np.ndarray]:
        """Return the first batch, for a look at it."""
        return next(self._make())

    def rewind(self) -> None:
        """Begin anew."""
        self._now = self._make()

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield all batches, from the first on."""
        return self._make()


def peak_rss_mib() -> float:
    """Peak resident memory of this process in MiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


def main(run: Callable[..., dict[str, Any] | None]) -> None:
    """Call `run(**request)` with the JSON object given as the argument; print its time and memory as a JSON line."""
    request = json.loads(sys.argv[1])
    for name in ("model", "target", "samples"):
        request[name] = Path(request[name])
    start = time.perf_counter()
    told = run(**request) or {}
    result = {"wall_s": time.perf_counter() - start, "peak_rss_mib": peak_rss_mib(), **told}
    print("\n" + json.dumps(result), flush=True)
