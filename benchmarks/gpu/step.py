"""What each step shares: its arguments, its deadline, and the models that `prepare` left."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import mmtrt
from mmtrt.artifacts import write_json
from mmtrt.tensors import Array, resolve_shape

PRECISIONS = ("fp16", "int8", "fp32")
"""What tells most first: time may be up at any moment."""
FIRST = ("vqa-coattention", "vqa-r101-bert", "medical", "bev")
LAST = ("vqa-r18-bert", "vqa-r50-bert")


def telling(model: str) -> tuple[int, str]:
    """Return the place of a model: what tells most comes first, what is large and much like another last."""
    if model in FIRST:
        return FIRST.index(model), model
    return len(FIRST) + (model in LAST), model


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Where a step writes, where models and engines lie, and when it must have ended."""

    out: Path
    work: Path
    until: float

    @property
    def left_s(self) -> float:
        """Seconds that are left."""
        return self.until - time.monotonic()

    def write(self, told: Mapping[str, Any]) -> None:
        """Write the step's results; called after each row, so that a step that is ended leaves what it has."""
        write_json(self.out, dict(told))

    def engines(self, *precisions: str) -> dict[str, dict[str, Path]]:
        """Return the engines that are there, what tells most first: `{"bev": {"fp16": PATH}}`."""
        found: dict[str, dict[str, Path]] = {}
        folders = [path for path in self.work.iterdir() if path.is_dir()] if self.work.is_dir() else []
        for folder in sorted(folders, key=lambda path: telling(path.name)):
            for precision in precisions or PRECISIONS:
                path = folder / f"{folder.name}{'' if precision == 'fp32' else '.' + precision}.engine"
                if path.is_file():
                    found.setdefault(folder.name, {})[precision] = path
        if not found:
            sys.exit(f"no engines in {self.work}: run the step `prepare` first")
        return found


def asked() -> Asked:
    """Read the step's arguments."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=120)
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    return Asked(out=given.out, work=given.work, until=time.monotonic() + given.seconds)


def sizes_of(session: mmtrt.Session) -> dict[str, tuple[int, int, int]]:
    """Return the smallest, usual and largest value of each size that an engine's inputs name."""
    found = {}
    for spec in session.inputs:
        span = session.ranges[spec.name]
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, str):
                found[dim] = (span.min[axis], span.opt[axis], span.max[axis])
    return found


def usual(session: mmtrt.Session) -> dict[str, int]:
    """Return the usual sizes, and the smallest batch."""
    batches = {spec.shape[0] for spec in session.inputs if spec.shape}
    return {name: span[0 if name in batches else 1] for name, span in sizes_of(session).items()}


def drawn_feeds(session: mmtrt.Session, sizes: Mapping[str, int], seed: int = 0) -> dict[str, Array]:
    """Return inputs at the sizes given: floats are drawn, integers are 0 or 1, which every table has."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for spec in session.inputs:
        shape = resolve_shape(spec.shape, sizes)
        floats = spec.dtype.startswith("float")
        feeds[spec.name] = (rng.standard_normal(shape) if floats else rng.integers(0, 2, shape)).astype(spec.dtype)
    return feeds


def run_mmtrt(arguments: Sequence[str], *, limit_s: float) -> tuple[int, dict[str, Any], str]:
    """Run a command of mmtrt; return its exit code, its JSON document and the end of what it said."""
    command = [sys.executable, "-m", "mmtrt", *arguments, "--json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=max(limit_s, 1))
    except subprocess.TimeoutExpired:
        return -1, {}, f"not done after {limit_s:.0f} s"
    try:
        told = json.loads(done.stdout)
    except ValueError:
        # Killed, or a library wrote beside it.
        told = {}
    return done.returncode, told, _tail(done.stderr)


def tried(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return a row, or the row of its exact error: one engine that fails must not take the others' rows with it."""
    found = attempt(work)
    if found["ok"]:
        return dict(found["value"])
    print(found["error"], file=sys.stderr, flush=True)
    return {"error": found["error"]}


def finish(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """End the step: with exit code 1 where a row is an error, or where there is none."""
    sys.exit(1 if not rows or any("error" in row for row in rows.values()) else 0)


def _tail(text: str) -> str:
    return "\n".join(line for line in text.strip().splitlines() if not line.startswith("["))[-1500:]


def attempt(work: Callable[[], Any]) -> dict[str, Any]:
    """Return what something gave, or the exact error: in such a run an error is a result."""
    try:
        return {"ok": True, "value": work()}
    except Exception as error:  # noqa: BLE001
        return {"ok": False, "error": f"{type(error).__name__}: {error}"}
