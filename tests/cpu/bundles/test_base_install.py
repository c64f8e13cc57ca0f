"""`mmtrt deploy` where the base install is all there is, with TensorRT-RTX in the place of the board's TensorRT."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mmtrt.engine.flavours import gpu

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
pytestmark = pytest.mark.skipif(gpu() is not None, reason="this machine has a GPU")

MOST_MIB = 150
# Python runs this first, in each process: the extras are not there, and what deploys tells what it took.
BASE_INSTALL = """
import atexit, importlib.abc, os, re, sys

EXTRAS = {"torch", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "polygraphy", "safetensors", "transformers"}

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in EXTRAS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

def tell():
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())
    with open(os.environ["PEAK"], "w") as file:
        file.write(peak[1])

sys.meta_path.insert(0, Absent())
if "deploy" in sys.orig_argv:
    atexit.register(tell)
"""


@pytest.fixture
def edge(tmp_path: Path) -> Any:
    """Run `mmtrt deploy` so; return the exit code, the document, and the peak memory of its process in MiB."""
    (tmp_path / "sitecustomize.py").write_text(BASE_INSTALL)
    peak = tmp_path / "peak"

    def run(*arguments: object) -> tuple[int, Any, float]:
        path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            [sys.executable, "-m", "mmtrt", "deploy", *map(str, arguments), "--json"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path, "PEAK": str(peak)},
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, json.loads(done.stdout), int(peak.read_text()) / 1024

    return run


def test_the_base_install_builds_and_runs_nothing(tiny_bundle: Path, edge: Any, tmp_path: Path) -> None:
    code, told, peak_mib = edge(tiny_bundle, "--to", tmp_path / "DIR", "--build-only")
    assert (code, told["state"], told["target"], told["precision"]) == (0, "built, not run", "any-rtx", "int8")
    assert (told["engine"], told["ran"], told["parity"], told["latency"]) == ("built", "", None, None)
    assert not (tmp_path / "DIR" / "current").exists()
    assert peak_mib < MOST_MIB

    code, told, _ = edge(tiny_bundle, "--to", tmp_path / "DIR")
    assert code == 4
    assert "any-rtx: GPU" in told["error"]
    assert "orin-nano: " in told["error"]
    assert not (tmp_path / "DIR" / "current").exists()
