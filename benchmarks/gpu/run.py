"""All that needs a GPU, step after step, each in a process of its own; a summary last.

python benchmarks/gpu/run.py                        all steps, within --minutes
python benchmarks/gpu/run.py --steps ahead soak     a few

A step that crashes, fails or takes too long is a row of the summary, and the next one runs. Each writes
`<out>/<step>.json`; `<out>/summary.md` is what to send back. Exit code 1 where a step failed, 4 without a GPU.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from summary import summary

from mmtrt.artifacts import read_json, whole_file, write_json
from mmtrt.machine import machine
from mmtrt.runtimes.cuda import gpu, gpu_trouble

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A script in this folder, what it answers, the most seconds that it may take, and what is kept back for it."""

    name: str
    answers: str
    limit_s: int
    least_s: int


STEPS = (
    Step(name="ahead", answers="does an engine that was built without a GPU run on this one", limit_s=120, least_s=30),
    Step(name="prepare", answers="the zoo, exported and built in FP32, FP16 and INT8", limit_s=240, least_s=120),
    Step(name="overhead", answers="what the runtime adds to the engine's time", limit_s=40, least_s=15),
    Step(name="events", answers="mmtrt's benchmark against bare CUDA events", limit_s=40, least_s=15),
    Step(name="parity", answers="does each engine say what PyTorch says", limit_s=150, least_s=60),
    Step(name="speed", answers="engines against torch.compile, INT8 against FP16", limit_s=300, least_s=120),
    Step(name="misuse", answers="inputs pulled away: a clear error, and the session works on", limit_s=40, least_s=15),
    Step(name="soak", answers="10,000 runs with changing shapes in 4 threads", limit_s=60, least_s=30),
    Step(name="tests", answers="the tests that need a GPU", limit_s=120, least_s=40),
)


def main() -> None:
    """Run what was asked for, write and print the summary."""
    options = _parse()
    found = gpu()
    if found is None:
        print(f"no GPU: {gpu_trouble()}; nothing was run", file=sys.stderr)
        sys.exit(4)
    out = options.out or RESULTS / re.sub(r"[^a-z0-9]+", "-", found.name.lower().removeprefix("nvidia ")).strip("-")
    out.mkdir(parents=True, exist_ok=True)
    facts = {"gpu": found.to_json(), "machine": machine(), "versions": _versions(), "begun": _now()}
    write_json(out / "facts.json", facts)
    until = time.monotonic() + options.minutes * 60
    rows = []
    steps = [step for step in STEPS if options.steps is None or step.name in options.steps]
    for index, step in enumerate(steps):
        # A slow step takes none of what the later ones need at least.
        kept = sum(later.least_s for later in steps[index + 1 :])
        left = until - time.monotonic()
        rows.append(_run(step, out, options.work, min(left, max(left - kept, step.least_s))))
        write_json(out / "steps.json", {"schema": "mmtrt.gpu/1", "steps": rows})
        _publish(out)
    print(_publish(out))
    sys.exit(0 if all(row["state"] == "done" for row in rows) else 1)


def _run(step: Step, out: Path, work: Path, left: float) -> dict[str, Any]:
    """Run one step within its limit and the seconds left for it; return its row."""
    row: dict[str, Any] = {"name": step.name, "answers": step.answers}
    if left < 10:
        return {**row, "state": "no time left"}
    limit = min(step.limit_s, left)
    print(f"[{step.name}] {step.answers} (at most {limit:.0f} s)", file=sys.stderr, flush=True)
    (out / f"{step.name}.json").unlink(missing_ok=True)
    command = [sys.executable, str(HERE / f"{step.name}.py"), "--out", str(out / f"{step.name}.json")]
    command += ["--work", str(work), "--seconds", f"{limit * 0.9:.0f}"]
    start = time.monotonic()
    with (out / f"{step.name}.log").open("wb") as log:
        # A session of its own: what a step has started goes with it.
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            code = process.wait(limit)
            state = "done" if code == 0 else f"failed with exit code {code}" if code > 0 else f"crashed: signal {-code}"
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, KeyboardInterrupt):
                raise
            state = f"not done after {limit:.0f} s"
    took = time.monotonic() - start
    print(f"[{step.name}] {state} after {took:.0f} s", file=sys.stderr, flush=True)
    if state != "done":
        row["log"] = (out / f"{step.name}.log").read_text(errors="replace").strip().splitlines()[-12:]
    return {**row, "state": state, "wall_s": round(took, 1)}


def _publish(out: Path) -> str:
    """Write the summary of all steps that have results in a folder, and return it."""
    told = {path.stem: read_json(path) for path in sorted(out.glob("*.json"))}
    text = summary(told)
    with whole_file(out / "summary.md") as part:
        part.write_text(text, encoding="utf-8")
    return text


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": sys.version.split()[0]}
    for name in (
        "mmtrt",
        "torch",
        "tensorrt",
        "tensorrt-rtx",
        "triton",
        "cuda-core",
        "cuda-bindings",
        "onnx",
        "onnxruntime",
    ):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())


def _parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", nargs="+", choices=[step.name for step in STEPS], metavar="STEP")
    parser.add_argument("--out", type=Path, help="results (benchmarks/results/<gpu>)")
    parser.add_argument(
        "--work", type=Path, default=HERE.parents[1] / "engines" / "out" / "gpu", help="models, engines"
    )
    parser.add_argument("--minutes", type=float, default=9.5, help="for all steps together (%(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
