"""The loop over what comes by itself: nothing lost but what is told, and an end that comes at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mmtrt.errors import InputError, MachineError, UsageError
from mmtrt.streaming import Latency, camera, run_stream, stopping, watch_folder


def hold(item: object) -> None:
    time.sleep(0.01)


def test_each_item_is_done_once_and_in_order() -> None:
    done: list[int] = []
    summary = run_stream(range(200), done.append, stop=threading.Event())
    assert done == list(range(200))
    assert (summary.taken, summary.done, summary.refused, summary.dropped, summary.left) == (200, 200, 0, 0, 0)
    told = summary.to_json()
    assert told["schema"] == "mmtrt.stream/1"
    assert 0 < told["work"]["p50_ms"] <= told["work"]["p99_ms"] <= told["work"]["max_ms"]
    assert "200 done, 0 refused, 0 dropped" in str(summary)


def test_a_source_that_is_ahead_waits() -> None:
    ahead = most = 0

    def source() -> Iterator[int]:
        nonlocal ahead, most
        for item in range(30):
            ahead += 1
            most = max(most, ahead)
            yield item

    def work(item: int) -> None:
        nonlocal ahead
        hold(item)
        ahead -= 1

    summary = run_stream(source(), work, stop=threading.Event(), waiting=3)
    assert summary.done == 30
    # Three wait, one is worked on, one is in the source's hands.
    assert most <= 5


def test_or_the_oldest_goes_for_the_newest() -> None:
    done: list[int] = []
    begun = threading.Event()

    def source() -> Iterator[int]:
        yield 0
        assert begun.wait(5)
        yield from range(1, 101)

    def work(item: int) -> None:
        begun.set()
        time.sleep(0.2 if not item else 0)
        done.append(item)

    summary = run_stream(source(), work, stop=threading.Event(), waiting=2, when_full="drop oldest")
    assert done == [0, 99, 100]
    assert (summary.taken, summary.done, summary.dropped, summary.left) == (101, 3, 98, 0)
    # What waited in the queue counts: the item was there, and nobody looked at it.
    assert summary.latency.max_ms is not None
    assert summary.work.p50_ms is not None
    assert summary.latency.max_ms >= 100


def test_a_stop_finishes_what_is_under_way_and_leaves_the_rest() -> None:
    stop = threading.Event()
    done: list[int] = []
    closed = threading.Event()

    def source() -> Iterator[int]:
        try:
            yield from range(10**9)
        finally:
            closed.set()

    def work(item: int) -> None:
        if item == 5:
            stop.set()
        done.append(item)

    summary = run_stream(source(), work, stop=stop, waiting=4)
    assert done == [0, 1, 2, 3, 4, 5]
    assert summary.left == summary.taken - 6 >= 0
    assert closed.is_set()


def test_a_source_that_hangs_does_not_hold_the_end_up() -> None:
    stop, never = threading.Event(), threading.Event()

    def source() -> Iterator[int]:
        yield 1
        never.wait(30)

    start = time.perf_counter()
    summary = run_stream(source(), lambda _: stop.set(), stop=stop)
    assert time.perf_counter() - start < 10
    assert summary.done == 1
    never.set()


def test_a_bad_item_is_told_and_the_next_one_comes() -> None:
    told: list[tuple[int, str]] = []

    def work(item: int) -> None:
        if item % 2:
            raise InputError(f"{item} is odd")

    summary = run_stream(
        range(5), work, stop=threading.Event(), refused=lambda item, error: told.append((item, error.message))
    )
    assert told == [(1, "1 is odd"), (3, "3 is odd")]
    assert (summary.taken, summary.done, summary.refused) == (5, 3, 2)


@pytest.mark.parametrize("error", [InputError("bad"), RuntimeError("broken")])
def test_other_errors_end_the_stream(error: Exception) -> None:
    def work(item: int) -> None:
        raise error

    with pytest.raises(type(error)):
        run_stream(range(10**9), work, stop=threading.Event())


def test_an_error_of_the_source_is_raised_after_what_it_gave() -> None:
    done: list[int] = []

    def source() -> Iterator[int]:
        yield from (1, 2)
        raise InputError("the cable is out")

    with pytest.raises(InputError, match="the cable is out"):
        run_stream(source(), done.append, stop=threading.Event())
    assert done == [1, 2]


def test_at_least_one_item_waits() -> None:
    with pytest.raises(UsageError, match="waiting=0"):
        run_stream([], hold, stop=threading.Event(), waiting=0)


def test_nothing_measured_is_no_number() -> None:
    summary = run_stream([], hold, stop=threading.Event())
    assert summary.latency == Latency(p50_ms=None, p90_ms=None, p99_ms=None, max_ms=None)
    assert "nothing was measured" in str(summary)


def test_percentiles_are_numpys() -> None:
    times = np.random.default_rng(0).exponential(0.01, 1000)
    told = Latency.of(times.tolist())
    assert told.p99_ms == pytest.approx(float(np.percentile(times, 99)) * 1000)
    assert told.max_ms == pytest.approx(float(times.max()) * 1000)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_and_are_as_before_afterwards(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stopping() as stop:
        os.kill(os.getpid(), number)
        assert stop.wait(5)
        if number == signal.SIGINT:
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
    assert signal.getsignal(number) is before


# ------------------------------------------------------------------------------------------------------ sources


def test_a_folder_gives_what_is_there_and_what_comes(tmp_path: Path) -> None:
    stop = threading.Event()
    for place, name in enumerate(("b.ppm", "a.PNG", "notes.txt")):
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, (place, place))
    found = watch_folder(tmp_path, stop=stop)
    assert [next(found).name, next(found).name] == ["b.ppm", "a.PNG"]
    (tmp_path / "c.ppm").write_text("c")
    (tmp_path / "b.ppm").write_text("b, changed")
    assert {next(found).name, next(found).name} == {"b.ppm", "c.ppm"}
    stop.set()
    assert list(found) == []


def test_what_is_no_file_is_passed_by(tmp_path: Path) -> None:
    (tmp_path / "b.png").touch()
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "folder.png").mkdir()
    stop = threading.Event()
    files = watch_folder(tmp_path, stop=stop)
    assert next(files) == tmp_path / "b.png"
    stop.set()
    assert list(files) == []


def test_a_file_that_is_still_written_is_waited_for(tmp_path: Path) -> None:
    stop = threading.Event()
    path = tmp_path / "slow.ppm"
    whole = 0

    def write() -> None:
        nonlocal whole
        with path.open("wb", buffering=0) as stream:
            for _ in range(12):
                whole += stream.write(b"x" * 100)
                time.sleep(0.03)

    writer = threading.Thread(target=write)
    writer.start()
    found = next(watch_folder(tmp_path, stop=stop))
    assert found.stat().st_size == 1200
    writer.join()


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't read the folder"):
        next(watch_folder(tmp_path / "none", stop=threading.Event()))


CV2 = """
import numpy as np

class VideoCapture:
    def __init__(self, device): self.device, self.left, self.released = device, 3, False
    def isOpened(self): return self.device == 0
    def read(self):
        self.left -= 1
        return self.left >= 0, np.full((2, 2, 3), (1, 2, 3), dtype=np.uint8)
    def release(self): open("released", "w").close()
"""


def test_a_camera_gives_rgb_and_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cv2.py").write_text(CV2)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    frames = list(camera(0, stop=threading.Event()))
    assert len(frames) == 3
    assert frames[0][0, 0].tolist() == [3, 2, 1]
    assert (tmp_path / "released").exists()
    with pytest.raises(MachineError, match="can't open the camera 7"):
        next(camera(7, stop=threading.Event()))


def test_without_opencv_the_mend_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmtrt.streaming.find_spec", lambda _: None)
    with pytest.raises(MachineError, match="pip install opencv-python-headless"):
        next(camera(0, stop=threading.Event()))
