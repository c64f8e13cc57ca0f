"""A check ends within its time limit with what it knows, also where native code hangs; two at once don't disturb."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import onnx
import psutil
import pytest
from onnx import TensorProto, helper
from started import start

from mmtrt.artifacts import StageCache
from mmtrt.errors import InputError
from mmtrt.pipeline import deadline
from mmtrt.pipeline.checking import CheckRequest
from mmtrt.pipeline.context import Context
from mmtrt.results import CheckResult

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals and process groups as Linux has them")

STUCK = '''
import time

import tiny_fusion


class Stuck(tiny_fusion.TinyFusion):
    """Never answers: as native code that hangs."""

    def forward(self, image, ids, mask):
        time.sleep(600)


def factory():
    return Stuck().eval(), *tiny_fusion.factory()[1:]
'''


HANG = """
import sys, time
from mmtrt.pipeline.checking import CheckRequest
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.deadline import check_within

request = CheckRequest(candidate=sys.argv[1], against=sys.argv[1], samples=sys.argv[2], stress=())
check_within(Context(), request, 5, lambda told: print(told.verdict), then=lambda *_: time.sleep(600))
"""


def endless(path: Path) -> Path:
    """An ONNX whose one loop goes around for ever: native code of ONNX Runtime that hangs."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["on"]),
            helper.make_node("Relu", ["held"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("held", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    most = helper.make_tensor("most", TensorProto.INT64, [], [2**62])
    true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])
    loop = helper.make_node("Loop", ["most", "true", "x"], ["y"], body=body)
    graph = helper.make_graph([loop], "g", [x], [y], [most, true])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
    return path


def child_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Wait for the process of the native code; none where the time was out before there was one."""
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            if children := psutil.Process(process.pid).children(recursive=True):
                return children
        time.sleep(0.01)
    return []


def assert_gone(children: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(children, timeout=120)
    assert not [child for child in alive if child.status() != psutil.STATUS_ZOMBIE]


def told(process: subprocess.Popen[str], folder: Path) -> dict[str, Any]:
    """The document of a check that ran out of time, as stdout, JUnit and Markdown tell it."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, err
    found: dict[str, Any] = json.loads(out)
    assert found["verdict"] == "inconclusive"
    assert found["note"].startswith("out of time after ")
    (error,) = ET.fromstring((folder / "junit.xml").read_bytes()).iter("error")  # noqa: S314 -- just written
    assert error.attrib["message"] == found["note"]
    assert found["note"] in (folder / "summary.md").read_text(encoding="utf-8")
    assert not list(folder.glob(".*.part"))
    return found


FILES = ("--json", "--junit", "junit.xml", "--summary", "summary.md")


def test_native_code_that_hangs_in_its_own_process_is_ended(tmp_path: Path) -> None:
    model = endless(tmp_path / "endless.onnx")
    limit = ("--samples", "random", "--time-limit", 4)
    process = start(tmp_path, "check", model, "--against", model, *limit, *FILES)
    children = child_of(process)
    found = told(process, tmp_path)
    assert (found["samples"], found["outputs"]) == (0, {})
    assert found["candidate"]["what"] == str(model)
    assert_gone(children)


def test_code_that_hangs_in_the_thread_that_checks_is_left_behind(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(STUCK, encoding="utf-8")
    samples = ("--samples", tiny.with_name("tiny.golden"), "--time-limit", 6)
    process = start(tmp_path, "check", "stuck:factory", "--against", tiny, *samples, *FILES)
    children = child_of(process)
    found = told(process, tmp_path)
    assert (found["samples"], found["candidate"]["what"]) == (0, "stuck:factory")
    assert_gone(children)


def test_what_is_known_when_the_time_is_out_is_told(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = deadline.check_files

    def slow(context: Context, request: CheckRequest) -> CheckResult:
        """A check that dawdles before its second batch for as long as there is time."""

        def stage(text: str) -> None:
            context.stage(text)
            while text == "parity: 2 samples":
                context.stage("dawdle")
                time.sleep(0.01)

        return real(replace(context, stage=stage), request)

    monkeypatch.setattr(deadline, "check_files", slow)
    request = CheckRequest(candidate=str(tiny), against=str(tiny), samples=str(tiny.with_name("tiny.golden")))
    context = Context(cache=StageCache(None))
    known = deadline.check_within(context, request, 8, lambda _: pytest.fail("the thread that checks came back"))
    assert (known.verdict, known.note, known.samples) == ("inconclusive", "out of time after 8 s", 2)
    assert known.outputs["answer"].verdict == "pass"
    assert known.stress == ()
    assert known.candidate.runs.startswith("onnxruntime ")


def test_what_follows_a_verdict_may_run_out_of_time(tiny: Path) -> None:
    notes: list[str] = []

    def dawdle(context: Context, result: CheckResult) -> CheckResult:
        while True:
            context.stage("dawdle")
            time.sleep(0.01)

    samples = str(tiny.with_name("tiny.golden"))
    request = CheckRequest(candidate=str(tiny), against=str(tiny), samples=samples, stress=())
    late = lambda _: pytest.fail("the thread that checks came back")  # noqa: E731
    known = deadline.check_within(Context(note=notes.append), request, 8, late, then=dawdle)
    assert (known.verdict, known.note, known.samples) == ("pass", "", 8)
    assert notes == ["out of time after 8 s: the verdict stands, and what was to follow is left out"]


def test_a_verdict_stands_as_exit_code_where_what_follows_hangs(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "hang.py").write_text(HANG, encoding="utf-8")
    command = [sys.executable, "hang.py", str(tiny), str(tiny.with_name("tiny.golden"))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=360, check=False)
    assert (done.returncode, done.stdout) == (0, "pass\n"), done.stderr


def test_no_limit_is_too_long(tiny: Path, mmtrt: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = mmtrt("check", tiny, "--against", tiny, "--stress", "none", "--quiet", "--time-limit", "inf")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_failure_within_the_time_is_what_it_is(tiny: Path) -> None:
    request = CheckRequest(candidate=str(tiny), against="gone.onnx")
    with pytest.raises(InputError, match="gone"):
        deadline.check_within(Context(), request, 200, lambda _: None)


def test_two_checks_at_once_on_the_same_files(tiny: Path, recorded: Path, tmp_path: Path) -> None:
    # A limit that is not met changes nothing.
    both = [start(tmp_path, "check", tiny, "--against", recorded, "--time-limit", 250, *FILES) for _ in range(2)]
    verdicts = []
    for process in both:
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
        verdicts.append({**json.loads(out), "cached": None})
    assert verdicts[0] == verdicts[1]
    assert (verdicts[0]["verdict"], verdicts[0]["note"]) == ("pass", "")
    ET.fromstring((tmp_path / "junit.xml").read_bytes())  # noqa: S314 -- just written
    assert not list(tmp_path.rglob("*.part"))


def test_ctrl_c_leaves_nothing_half_written(tmp_path: Path) -> None:
    model = endless(tmp_path / "endless.onnx")
    process = start(tmp_path, "check", model, "--against", model, "--samples", "random", "--time-limit", 200, *FILES)
    children = child_of(process)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 130, err
    assert json.loads(out)["exit_code"] == 130
    assert "Traceback" not in err
    assert_gone(children)
    assert {path.name for path in tmp_path.iterdir()} == {"endless.onnx", "cache"}
    assert not list(tmp_path.rglob("*.part"))
