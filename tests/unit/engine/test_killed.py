"""Kills: whatever dies, no half-written engine stays under the name asked for, and no builder runs on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

FAKES = Path(__file__).parent / "fakes"
SOURCE = Path(__file__).parents[3] / "src"
SCRIPT = """
import signal, sys
# A shell that starts a job in the background has it ignore Ctrl-C, and what it starts inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from mmtrt.engine import build, flavours
from mmtrt.engine.build import BuildOptions, build_engine
from mmtrt.errors import MmtrtError
from mmtrt.runtimes.cuda import GpuInfo
from mmtrt.tensors import ShapeRange
flavours.gpu = build.gpu = lambda: GpuInfo(name="x", compute_capability="8.7", memory_mib=1, driver="x")
span = ShapeRange(min=(1, 4), opt=(1, 4), max=(1, 4))
onnx = Path(sys.argv[1])
try:
    build_engine(onnx, onnx.with_suffix(".engine"), profile={"x": span}, options=BuildOptions())
except MmtrtError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def wait_for(what: Callable[[], Any], seconds: float = 20) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.fixture
def hanging(graph: Any, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int, Path]]:
    """Yield a build that is under way: its process, the builder's pid, and where the engine goes."""
    onnx = graph(outcome="hang")
    pid_file = tmp_path / "pid"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(SOURCE), str(FAKES)]),
        "FAKE_TENSORRT_PID": str(pid_file),
    }
    parent = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(onnx)], env=environment, stdout=subprocess.PIPE, text=True
    )
    child = 0
    try:
        child = int(wait_for(lambda: pid_file.exists() and pid_file.read_text(encoding="utf-8")))
        yield parent, child, onnx.with_suffix(".engine")
    finally:
        for process in (parent.pid, child):
            if process and alive(process):
                os.kill(process, signal.SIGKILL)
        parent.communicate()


def test_a_killed_builder_is_told_and_leaves_nothing(hanging: Any) -> None:
    parent, child, engine = hanging
    os.kill(child, signal.SIGKILL)
    text, _ = parent.communicate(timeout=120)
    assert parent.returncode == 4
    assert "want of memory" in text
    assert {path.name for path in engine.parent.iterdir()} == {"model.onnx", "pid"}


def test_ctrl_c_ends_the_builder_and_leaves_nothing(hanging: Any) -> None:
    parent, child, engine = hanging
    parent.send_signal(signal.SIGINT)
    parent.communicate(timeout=120)
    assert parent.returncode == -signal.SIGINT
    wait_for(lambda: not alive(child))
    assert {path.name for path in engine.parent.iterdir()} == {"model.onnx", "pid"}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_a_builder_dies_with_its_parent(hanging: Any) -> None:
    parent, child, engine = hanging
    parent.kill()
    wait_for(lambda: not alive(child))
    assert not engine.exists()
