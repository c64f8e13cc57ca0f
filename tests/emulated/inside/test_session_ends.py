"""How sessions on the emulated GPU end: in another thread, with the process, after a fork, with kernels kept."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from emulated_gpu import Emulated
from plans import make_plan
from sessions import feeds, same

from mmtrt import Session
from mmtrt.errors import InputError


@pytest.fixture(autouse=True)
def nothing_stays(emulated: Emulated) -> Iterator[None]:
    before = emulated.live
    yield
    after = emulated.live
    assert after == before


def test_a_session_that_another_thread_closes_ends_in_a_clear_error(engine: Path) -> None:
    session = Session(engine)
    begun = threading.Barrier(4)
    told: list[str] = []

    def run() -> None:
        begun.wait()
        try:
            while True:
                session.run(feeds())
        except InputError as error:
            told.append(error.message)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    begun.wait()
    session.close()
    for thread in threads:
        thread.join()
    assert told == ["the session is closed"] * 3


def test_each_step_may_be_another_threads(engine: Path, model: Session) -> None:
    held: list[Any] = []

    def in_a_thread(work: Callable[[], object]) -> None:
        failed: list[BaseException] = []

        def call() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 -- it is raised again below
                failed.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]

    in_a_thread(lambda: held.append(Session(engine)))
    session = held.pop()
    in_a_thread(lambda: held.append(session.run(feeds())))
    assert same(held.pop(), model.run(feeds()))
    in_a_thread(lambda: held.append(session.bind(feeds())))
    bound = held.pop()
    in_a_thread(bound.run)
    in_a_thread(bound.close)
    del bound
    in_a_thread(session.close)


LEFT_OPEN = """
import atexit, os, sys
from emulated_gpu import Emulated
atexit.register(lambda: print(os.getpid() == parent, Emulated().live, flush=True))
import numpy as np
from mmtrt import Session
from mmtrt.errors import MachineError
parent = os.getpid()
session = Session(sys.argv[1])
given = {"image": np.zeros((1, 3, 16, 16), np.float32), "ids": np.ones((1, 2), np.int64)}
given["mask"] = given["ids"]
for _ in range(3):
    session.run(given)
if not os.fork():
    try:
        session.run(given)
    except MachineError as error:
        print(error.message, flush=True)
    # As children of multiprocessing end; ONNX Runtime, which stands in for the engine, waits for its threads otherwise.
    atexit._run_exitfuncs()
    os._exit(0)
code = os.wait()[1]
session.run(given)
bound = session.bind(given)
sys.exit(code)
"""


def test_a_session_left_open_at_the_end_of_a_process_that_forked(engine: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "ignore", "-c", LEFT_OPEN, str(engine)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    child, left_in_child, left = done.stdout.splitlines()
    assert "was opened in process" in child
    assert left_in_child.startswith("False")
    # The arrays of a bound run are pinned memory, which is given back when they are; all else was.
    assert left.startswith("True Live(device_bytes=0, ")
    assert left.endswith("streams=0, events=0, graphs=0, executable_graphs=0)")


def test_rtx_compiles_at_once_and_finds_its_kernels_again(
    tiny: Path, model: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMTRT_CACHE_DIR", str(tmp_path / "cache"))
    path = make_plan(tiny, tmp_path / "rtx.engine", flavor="tensorrt-rtx")

    def compiled() -> list[str]:
        (file,) = (tmp_path / "cache" / "runtime").iterdir()
        found: list[str] = json.loads(file.read_bytes().removeprefix(b"rtrc"))
        return found

    known = []
    for batch in (1, 2, 2):
        with Session(path) as session:
            for turn in range(3):
                given = feeds(batch, seed=turn)
                assert same(session.run(given), model.run(given))
            with session.bind(given) as bound:
                # The stand-in refuses to be captured where kernels are specialised lazily.
                assert bound.cuda_graph
            del bound
            assert session.notes == ()
        known.append(compiled())
    assert len(known[0]) == 1
    assert known[0] == known[1][:1]
    assert known[1] == known[2]
    # Two that end at once: the file is whole, whoever was last.
    ends = threading.Barrier(4)

    def end(text: int) -> None:
        with Session(path) as session:
            session.run(feeds(1, text))
            ends.wait()

    threads = [threading.Thread(target=end, args=(text,)) for text in (3, 4, 6, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(compiled()) == len(known[2]) + 1
    with Session(path) as session:
        assert session.notes == ()
