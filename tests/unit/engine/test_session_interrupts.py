"""A Ctrl-C at any line of a run: the session can still be run and closed, and nothing is lost."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from mmtrt import Session
from mmtrt.errors import UsageError
from mmtrt.runtimes.engines import call, lane, loaded, pool

pytestmark = pytest.mark.usefixtures("fakes", "orin")


@pytest.fixture
def make_cuda(fakes: None) -> Any:
    import fake_cuda

    return fake_cuda.FakeCuda


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    graph = {"inputs": {"x": {"shape": [-1, 4]}}, "outputs": {"y": {"shape": [-1, 4]}}}
    path = tmp_path / "model.engine"
    path.write_bytes(b"ftrt".ljust(64, b"\0") + json.dumps({"graph": graph}).encode())
    return path


class CtrlC:
    """Raises KeyboardInterrupt at the n-th line that is run in the given files, once."""

    def __init__(self, nth: int, files: set[str]) -> None:
        self.left, self.files, self.came = nth, files, False

    def __call__(self, frame: FrameType, event: str, _: object) -> CtrlC | None:
        if frame.f_code.co_filename not in self.files:
            return None
        # What runs in a finalizer is never told to a caller: Python prints it and goes on.
        if event == "line" and frame.f_code.co_name != "__del__" and not self.came:
            self.left -= 1
            if not self.left:
                self.came = True
                raise KeyboardInterrupt
        return self

    def __enter__(self) -> None:
        sys.settrace(self)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)


@pytest.mark.parametrize("files", [(pool, loaded), (lane, call)])
def test_a_ctrl_c_at_any_line_of_a_run(plan: Path, make_cuda: Any, files: Any) -> None:
    x = np.full((2, 4), 1.5, np.float32)
    before = sys.gettrace()
    nth = 0
    interrupted = True
    try:
        while interrupted:
            nth += 1
            cuda = make_cuda()
            ctrl_c = CtrlC(nth, {str(module.__file__) for module in files})
            with Session(plan, device=lambda cuda=cuda: cuda, contexts=1) as session:
                try:
                    with ctrl_c:
                        for _ in range(3):
                            session.run(x=x)
                except KeyboardInterrupt:
                    # While the traceback, which holds all that was under way, is still there.
                    np.testing.assert_array_equal(session.run(x=x)["y"], x * 2)
            interrupted = ctrl_c.came
            assert cuda.closed
            assert not cuda.left_over(), nth
    finally:
        sys.settrace(before)
    assert nth > 50


@pytest.mark.parametrize("what", ["run", "close"])
def test_what_would_wait_for_its_own_run_is_told(plan: Path, make_cuda: Any, what: str) -> None:
    x = np.full((2, 4), 1.5, np.float32)
    cuda = make_cuda()

    class Handler:
        """A tensor that is asked for in the midst of a run, as a signal's handler is called."""

        def __dlpack_device__(self) -> tuple[int, int]:
            return 1, 0

        def __dlpack__(self, **_: object) -> Any:
            with pytest.raises(UsageError, match="wait for itself"):
                session.run(x=x) if what == "run" else session.close()
            return x.__dlpack__()

    with Session(plan, device=lambda: cuda, contexts=1) as session:
        np.testing.assert_array_equal(session.run(x=Handler())["y"], x * 2)
        np.testing.assert_array_equal(session.run(x=x)["y"], x * 2)
    assert cuda.closed
    assert not cuda.left_over()
