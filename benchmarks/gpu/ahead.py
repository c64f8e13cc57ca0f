"""Whether an engine of TensorRT-RTX that was built where no GPU is seen runs on this one.

Four engines of one small INT8 model: the default one (portable) and CURRENT, each built by a process from which the
GPU is hidden, and each built with the GPU in sight. Of each: what the validity mask says, the exact error where it does
not load, and how far its results are from ONNX Runtime's where it runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from step import Asked, asked, attempt

from mmtrt.engine.build import BuildOptions, build_engine
from mmtrt.runtimes.cuda import gpu
from mmtrt.runtimes.tensorrt import TensorRTRunner
from mmtrt.runtimes.tensorrt_api import import_flavour, listening, logger_of
from mmtrt.tensors import ShapeRange

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "cpu" / "engine"))
PROFILE = {"x": ShapeRange(min=(1, 4, 16, 16), opt=(2, 4, 16, 16), max=(4, 4, 16, 16))}
KINDS = {
    "default, built without a GPU": (None, True),
    "CURRENT, built without a GPU": ("CURRENT", True),
    "default, built here": (None, False),
    "CURRENT, built here": ("CURRENT", False),
}


def main() -> None:
    """Build each kind, ask for its validity, run it."""
    if sys.argv[1:2] == ["--build"]:
        _build(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4] or None)
        return
    given = asked()
    import engine_graphs

    folder = given.work / "ahead"
    folder.mkdir(parents=True, exist_ok=True)
    onnx = engine_graphs.conv_int8(folder / "conv.onnx")
    rows: dict[str, Any] = {}
    for name, (capability, hidden) in KINDS.items():
        rows[name] = _row(given, onnx, folder / f"{len(rows)}.engine", capability, hidden=hidden)
        given.write({"engines": rows})


def _row(given: Asked, onnx: Path, engine: Path, capability: str | None, *, hidden: bool) -> dict[str, Any]:
    environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": ""} if hidden else {})}
    command = [sys.executable, __file__, "--build", str(onnx), str(engine), capability or ""]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=max(given.left_s, 1)
        )
    except subprocess.TimeoutExpired as error:
        return {"built": False, "error": str(error)}
    if done.returncode != 0:
        return {"built": False, "error": done.stderr.strip()[-1500:]}
    return {
        "built": True,
        "saw_a_gpu": done.stdout.strip().endswith("True"),
        "bytes": engine.stat().st_size,
        "validity": attempt(lambda: _validity(engine)),
        "run": attempt(lambda: _run(onnx, engine)),
    }


def _build(onnx: Path, engine: Path, capability: str | None) -> None:
    options = BuildOptions(flavor="tensorrt-rtx", compute_capability=capability)
    build_engine(onnx, engine, profile=PROFILE, options=options)
    print(gpu() is not None)


def _validity(engine: Path) -> dict[str, Any]:
    """Return what TensorRT-RTX says of the plan before it is loaded: the verdict, and each bit of the mask by name."""
    api = import_flavour("tensorrt-rtx")
    runtime = api.Runtime(logger_of(api))
    told = runtime.get_engine_validity(engine.read_bytes())
    validity, mask = told if isinstance(told, tuple) else (told, 0)
    bits = api.EngineInvalidityDiagnostics.__members__
    return {
        "validity": getattr(validity, "name", str(validity)),
        "mask": int(mask),
        "reasons": [name for name, bit in bits.items() if int(mask) & int(bit.value)],
    }


def _run(onnx: Path, engine: Path) -> dict[str, Any]:
    """Run the engine and ONNX Runtime on the same inputs; the difference in dB of SQNR."""
    from mmtrt.runtimes.ort import OrtRunner

    feeds = {"x": np.random.default_rng(0).normal(size=(3, 4, 16, 16)).astype(np.float32)}
    with OrtRunner(onnx, "parity") as runner:
        wanted = runner.infer(feeds)["y"]
    with listening(import_flavour("tensorrt-rtx")) as log, TensorRTRunner(engine) as runner:
        got = runner.infer(feeds)["y"]
        noise = float(np.square(got - wanted).sum())
        return {
            "runs": runner.runs,
            "sqnr_db": 10 * float(np.log10(np.square(wanted).sum() / noise)) if noise else None,
            "max_abs": float(np.abs(got - wanted).max()),
            "warnings": list(log.warnings)[:5],
        }


if __name__ == "__main__":
    main()
