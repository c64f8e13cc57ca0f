from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmtrt import isolation
from mmtrt.errors import MachineError, MeasurementError, SampleError
from mmtrt.isolation import CrashError, death, follow_parent, run_isolated

SOURCE = str(Path(isolation.__file__).parents[1])
CALLS = """
import os, signal, sys, time
from pathlib import Path
from mmtrt.errors import SampleError

class Point:
    def __init__(self, x):
        self.x = x

    @staticmethod
    def made(x):
        return Point(x)

def add(a, b=0):
    return a + b

def double(array):
    print("chatter")
    return {"array": array * 2, "pid": os.getpid()}

def shift(point):
    return Point(point.x + 1)

def refuse():
    raise SampleError("sample 3 holds NaN", fix="Check it.")

def bug():
    return {}["missing"]

def no_file(path):
    return open(path)

def no_disk():
    raise OSError("a library's own words")

def no_memory():
    raise MemoryError

def no_pickle():
    return lambda: 0

def die(number):
    print("last words", file=sys.stderr, flush=True)
    os.kill(os.getpid(), number)
    time.sleep(60)

def leave(code):
    sys.exit(code)

def hang(pid_file):
    part = Path(pid_file + ".part")
    part.write_text(str(os.getpid()))
    part.rename(pid_file)
    time.sleep(60)
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that the child finds by this process's path alone."""
    (tmp_path / "isolated_calls.py").write_text(CALLS, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "isolated_calls", raising=False)
    import isolated_calls

    return isolated_calls


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


def test_a_result_comes_back(calls: Any) -> None:
    assert run_isolated(calls.add, 1, b=2, what="a sum") == 3
    assert run_isolated(calls.Point.made, 4, what="a point").x == 4


def test_large_arrays_cross_over(calls: Any) -> None:
    array = np.arange(4_000_000, dtype=np.float32)
    told = run_isolated(calls.double, array, what="a product")
    np.testing.assert_array_equal(told["array"], array * 2)
    assert told["pid"] != os.getpid()


def test_arguments_of_a_module_that_only_this_process_s_path_knows(calls: Any) -> None:
    assert run_isolated(calls.shift, calls.Point(1), what="a shift").x == 2


def test_our_errors_come_back_as_they_are(calls: Any) -> None:
    with pytest.raises(SampleError) as caught:
        run_isolated(calls.refuse, what="a check")
    assert (caught.value.message, caught.value.fix) == ("sample 3 holds NaN", "Check it.")


def test_errors_of_the_system_come_back_as_they_are(calls: Any) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        run_isolated(calls.no_file, "/no/such/file", what="reading")
    assert caught.value.filename == "/no/such/file"


@pytest.mark.parametrize(
    ("call", "told"), [("bug", "KeyError: 'missing'"), ("no_disk", "own words"), ("no_pickle", "pickle")]
)
def test_other_errors_come_back_with_their_trace(calls: Any, call: str, told: str) -> None:
    with pytest.raises(RuntimeError, match="a call failed in its own process") as caught:
        run_isolated(getattr(calls, call), what="a call")
    assert told in str(caught.value)
    assert "Traceback" in str(caught.value)


def test_a_function_that_can_t_be_named_is_refused_here() -> None:
    with pytest.raises((pickle.PicklingError, AttributeError)):
        run_isolated(lambda: 0, what="a call")


def test_want_of_memory_is_the_machine_s(calls: Any) -> None:
    with pytest.raises(MachineError, match="not enough memory"):
        run_isolated(calls.no_memory, what="a call")


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV])
def test_a_crash_names_the_signal_and_what_crashed(calls: Any, number: signal.Signals) -> None:
    with pytest.raises(CrashError, match=rf"the parser crashed \({number.name}\)") as caught:
        run_isolated(calls.die, number, what="the parser")
    assert "last words" in caught.value.message
    assert caught.value.exit_code == 1


def test_a_kill_is_taken_for_want_of_memory(calls: Any) -> None:
    with pytest.raises(MachineError, match="the parser was killed") as caught:
        run_isolated(calls.die, signal.SIGKILL, what="the parser")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("code", [0, 7])
def test_an_end_without_a_result_is_a_crash(calls: Any, code: int) -> None:
    with pytest.raises(CrashError, match=f"the parser ended with code {code}"):
        run_isolated(calls.leave, code, what="the parser")


def test_a_signal_without_a_name_is_told_by_its_number() -> None:
    assert death("it", -40, "").message == "it crashed (signal 40)"
    assert death("it", -11, "\n".join(map(str, range(99)))).message.splitlines()[1:] == [str(n) for n in range(84, 99)]


def test_a_time_limit_ends_the_child(calls: Any, tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(MeasurementError, match=r"a search did not end within 1\.5 s"):
        run_isolated(calls.hang, str(tmp_path / "pid"), what="a search", time_limit_s=1.5)
    assert time.monotonic() - start < 20
    if (tmp_path / "pid").exists():
        assert not alive(int((tmp_path / "pid").read_text(encoding="utf-8")))


def test_nothing_is_imported_from_the_current_directory(
    calls: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "stick"
    here.mkdir()
    for name in ("pickle", "ctypes", "numpy"):
        (here / f"{name}.py").write_text("raise SystemExit('planted')", encoding="utf-8")
    monkeypatch.chdir(here)
    assert run_isolated(calls.add, 1, b=2, what="it") == 3


@pytest.fixture
def hanging(calls: Any, tmp_path: Path) -> Any:
    """A process that waits for its child, and the child's id."""
    script = f"""
        import signal, sys
        # A shell that starts a job in the background has it ignore Ctrl-C, and what it starts inherits that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.path.insert(0, {str(tmp_path)!r})
        import isolated_calls
        from mmtrt.isolation import run_isolated
        run_isolated(isolated_calls.hang, {str(tmp_path / "pid")!r}, what="it")
    """
    folder = tmp_path / "temporary"
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": SOURCE, "TMPDIR": str(folder)}
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], env=environment, stderr=subprocess.PIPE, text=True
    )
    child = 0
    try:
        wait_for((tmp_path / "pid").exists)
        child = int((tmp_path / "pid").read_text(encoding="utf-8"))
        yield parent, child, folder
    finally:
        for pid in (parent.pid, child):
            if pid and alive(pid):
                os.kill(pid, signal.SIGKILL)
        parent.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_the_child_dies_with_its_parent(hanging: Any) -> None:
    parent, child, _ = hanging
    parent.kill()
    wait_for(lambda: not alive(child))


def test_ctrl_c_ends_the_child_and_leaves_nothing(hanging: Any) -> None:
    parent, child, folder = hanging
    os.kill(child, signal.SIGINT)
    time.sleep(0.1)
    assert alive(child), "the parent hears Ctrl-C, and ends it"
    parent.send_signal(signal.SIGINT)
    _, text = parent.communicate(timeout=120)
    assert "KeyboardInterrupt" in text
    assert not alive(child)
    assert list(folder.iterdir()) == []


def test_a_child_whose_parent_is_gone_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    follow_parent(os.getppid())
    if sys.platform == "linux":
        with pytest.raises(SystemExit):
            follow_parent(-1)
    monkeypatch.setattr(sys, "platform", "darwin")
    follow_parent(-1)
