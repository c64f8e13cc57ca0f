"""Ctrl-C and kill -9 in the middle of each stage, and two runs at once: no half files, no children, and it goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from started import start

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals and process groups as Linux has them")

RECIPE = """
[model]
source = "tiny_fusion:factory"

[precision]
build = ["int8"]

[bench]
duration_s = 0.3
"""
STAGES = ("export", "parse", "precision", "engine", "parity", "bench")


def parts(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.part"))


def wait_until_amid(process: subprocess.Popen[str], stage: Path) -> list[psutil.Process]:
    """Return the process's children once it is in the middle of a stage: it writes into a part of its folder."""
    until = time.monotonic() + 360
    while not (stage.is_dir() and parts(stage)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.002)
    return psutil.Process(process.pid).children(recursive=True)


def wait_for_child(process: subprocess.Popen[str]) -> list[psutil.Process]:
    until = time.monotonic() + 180
    while time.monotonic() < until:
        children = psutil.Process(process.pid).children(recursive=True)
        if children:
            return children
        time.sleep(0.002)
    pytest.fail("no process of its own for the stage")


def assert_gone(children: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(children, timeout=120)
    assert not [child for child in alive if child.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("later_s", [0.0, 0.25], ids=["at once", "in native code"])
def test_ctrl_c(tiny: Path, tmp_path: Path, later_s: float) -> None:
    for stage in ("precision", "engine"):
        process = start(tmp_path, "build", tiny, "--int8", "-o", "made")
        wait_until_amid(process, tmp_path / "cache" / stage)
        children = wait_for_child(process)
        time.sleep(later_s)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=180)
        if later_s and (tmp_path / "made").exists():
            pytest.skip("the stage had ended before the signal came")
        assert process.returncode == 130, said
        assert "interrupted" in said
        assert "Traceback" not in said
        assert_gone(children)
        assert not (tmp_path / "made").exists()
        assert not parts(tmp_path)
        if stage == "precision":
            # What was interrupted is done by the run that is interrupted in the next stage.
            assert not list((tmp_path / "cache" / "engine").glob("*"))


def test_kill_in_each_stage(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(RECIPE)
    for number, stage in enumerate(STAGES):
        process = start(tmp_path, "run", "tiny.toml", "-o", "made", "-q")
        children = wait_until_amid(process, tmp_path / "cache" / stage)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=180)
        assert process.returncode == -signal.SIGKILL
        assert_gone(children)
        finished = {path.parent.name for path in (tmp_path / "cache").glob("*/*") if not path.name.startswith(".")}
        # Each run took the stages that the ones before it had finished from the cache, and met the next one.
        assert finished == set(STAGES[:number]), stage
        assert not (tmp_path / "made" / "report.json").exists()
    process = start(tmp_path, "run", "tiny.toml", "-o", "made", "--json")
    out, said = process.communicate(timeout=360)
    assert process.returncode == 0, said
    document = json.loads(out)
    assert document["verdict"] == "pass"
    cached = [document["export"], *document["builds"], *(c for c in document["checks"] if c["verdict"] != "not run")]
    assert all(row["cached"] for row in cached)
    assert not document["bench"]["cached"]
    assert json.loads((tmp_path / "made" / "report.json").read_text())["verdict"] == "pass"
    assert {"tiny.onnx", "tiny.int8.onnx", "tiny.int8.engine"} <= {path.name for path in (tmp_path / "made").iterdir()}
    assert not parts(tmp_path)


def test_two_runs_at_once(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(RECIPE)
    both = [start(tmp_path, "run", "tiny.toml", "-o", "made", "--json") for _ in range(2)]
    for process in both:
        out, said = process.communicate(timeout=600)
        assert process.returncode == 0, said
        assert json.loads(out)["verdict"] == "pass"
    assert not parts(tmp_path)
    assert len(list((tmp_path / "made" / "tiny.golden").glob("*.npz"))) == 8
