"""A loop over what comes by itself, pictures of a folder or a camera: back-pressure, latencies, a clean stop.

One thread takes items from the source, the caller's works on them, and between the two wait at most `waiting` items.
"""

from __future__ import annotations

import contextlib
import importlib
import queue
import signal
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from mmtrt.errors import InputError, MachineError, UsageError

__all__ = ["Latency", "StreamSummary", "WhenFull", "camera", "run_stream", "stopping", "watch_folder"]

Item = TypeVar("Item")
WhenFull = Literal["wait", "drop oldest"]
"""What the source does while `waiting` items wait: it waits too, or the oldest of them goes for the newest."""

_LOOK_S = 0.1  # so often the loop looks whether it is to stop, while nothing comes
_REMEMBERED = 100_000
_LEAVE_S = 2.0  # so long a source is waited for that hangs in a read


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Percentiles of one time of each item, in ms; None where there was no item."""

    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """Take them of times in seconds, by linear interpolation between the nearest two."""
        if not seconds:
            return cls()
        p50, p90, p99, top = (float(value) * 1000 for value in np.percentile(seconds, [50, 90, 99, 100]))
        return cls(p50_ms=p50, p90_ms=p90, p99_ms=p99, max_ms=top)

    def __str__(self) -> str:
        if self.p50_ms is None:
            return "nothing was measured"
        return f"p50 {self.p50_ms:.2f}, p90 {self.p90_ms:.2f}, p99 {self.p99_ms:.2f}, max {self.max_ms:.2f} ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSummary:
    """What a stream did: items taken from the source, done, refused by the work, dropped unseen, and left at the stop.

    `latency` is from the moment when an item was there to the end of the work on it, `work` the work's alone; of the
    last 100,000 items that were done.
    """

    taken: int
    done: int
    refused: int
    dropped: int
    left: int
    seconds: float
    latency: Latency
    work: Latency

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {"schema": "mmtrt.stream/1", **asdict(self)}

    def __str__(self) -> str:
        counts = f"{self.done} done, {self.refused} refused, {self.dropped} dropped, {self.left} left"
        return f"{self.taken} taken in {self.seconds:.1f} s: {counts}\nlatency {self.latency}\nwork    {self.work}"


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C and SIGTERM set, in the main thread; a second Ctrl-C interrupts as ever."""
    stop = threading.Event()

    def heard(number: int, _frame: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_stream(
    source: Iterable[Item],
    work: Callable[[Item], object],
    *,
    stop: threading.Event,
    waiting: int = 2,
    when_full: WhenFull = "wait",
    refused: Callable[[Item, InputError], object] | None = None,
) -> StreamSummary:
    """Work on each item of a source, in this thread, until the source ends or `stop` is set.

    The item under way is finished then, those that wait are left. An InputError of the work is handed to `refused` with
    its item, and the next one comes; without `refused`, and whatever else is raised, ends the stream and is raised.
    """
    if waiting < 1:
        raise UsageError(f"at least one item has to wait: waiting={waiting}")
    reader = _Reader(source, waiting, when_full, stop)
    reader.start()
    # A stream may run for months.
    latency: deque[float] = deque(maxlen=_REMEMBERED)
    worked: deque[float] = deque(maxlen=_REMEMBERED)
    done = failed = 0
    start = time.perf_counter()
    try:
        while (taken := reader.next()) is not None:
            arrived, item = taken
            began = time.perf_counter()
            try:
                work(item)
            except InputError as error:
                if refused is None:
                    raise
                failed += 1
                refused(item, error)
                continue
            end = time.perf_counter()
            done += 1
            latency.append(end - arrived)
            worked.append(end - began)
        seconds = time.perf_counter() - start
    finally:
        reader.leave()
    if reader.error is not None:
        raise reader.error
    return StreamSummary(
        taken=reader.taken,
        done=done,
        refused=failed,
        dropped=reader.dropped,
        left=reader.taken - reader.dropped - done - failed,
        seconds=seconds,
        latency=Latency.of(tuple(latency)),
        work=Latency.of(tuple(worked)),
    )


class _Reader(threading.Thread, Generic[Item]):
    """Takes items from the source, and keeps at most so many until they are asked for."""

    def __init__(self, source: Iterable[Item], waiting: int, when_full: WhenFull, stop: threading.Event) -> None:
        super().__init__(name="mmtrt-stream", daemon=True)
        self._source, self._when_full, self._stop_asked = source, when_full, stop
        self._kept: queue.Queue[tuple[float, Item]] = queue.Queue(waiting)
        self._over = threading.Event()
        self._left = threading.Event()
        self.taken = self.dropped = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        """Read to the end, or until nobody wants more."""
        try:
            for item in self._source:
                if self._ended():
                    break
                if not self._keep((time.perf_counter(), item)):
                    break
        except BaseException as error:  # noqa: BLE001 -- it is raised in the thread that asked for the stream
            self.error = error
        finally:
            if isinstance(self._source, Generator):
                self._source.close()
            self._over.set()

    def _ended(self) -> bool:
        return self._stop_asked.is_set() or self._left.is_set()

    def _keep(self, entry: tuple[float, Item]) -> bool:
        """Put an item where it waits; False where nobody wants it any more."""
        self.taken += 1
        while not self._ended():
            try:
                if self._when_full == "wait":
                    self._kept.put(entry, timeout=_LOOK_S)
                else:
                    self._kept.put_nowait(entry)
            except queue.Full:
                if self._when_full == "drop oldest":
                    self._drop()
            else:
                return True
        return False

    def _drop(self) -> None:
        with contextlib.suppress(queue.Empty):  # taken just now
            self._kept.get_nowait()
            self.dropped += 1

    def next(self) -> tuple[float, Item] | None:
        """Return the next item, with the moment when it was there; None at the end, or where it is to stop."""
        while not self._stop_asked.is_set():
            try:
                return self._kept.get(timeout=_LOOK_S)
            except queue.Empty:
                if self._over.is_set() and self._kept.empty():
                    return None
        return None

    def leave(self) -> None:
        """Let it end, and wait a moment for that; one that hangs in a read goes with the process."""
        self._left.set()
        self.join(_LEAVE_S)


def watch_folder(
    folder: Path, *, stop: threading.Event, suffixes: Sequence[str] = (".png", ".jpg", ".ppm", ".bmp", ".npy")
) -> Iterator[Path]:
    """Yield the files of a folder, the oldest first, and then each new or changed one, until `stop` is set.

    A file is yielded once it was the same at two looks, 0.1 s apart: one that is still being written is not.
    InputError where the folder can't be read.
    """
    before: dict[str, tuple[int, int]] = {}
    given: dict[str, tuple[int, int]] = {}
    while not stop.is_set():
        now = _listed(folder, suffixes)
        given = {name: told for name, told in given.items() if name in now}
        for name in sorted(now, key=lambda name: (now[name], name)):
            if now[name] == before.get(name) != given.get(name):
                given[name] = now[name]
                yield folder / name
        before = now
        stop.wait(_LOOK_S)


def _listed(folder: Path, suffixes: Sequence[str]) -> dict[str, tuple[int, int]]:
    """When each file was changed, in ns, and its size."""
    found = {}
    try:
        for path in folder.iterdir():
            if path.suffix.lower() in suffixes:
                with contextlib.suppress(OSError):  # it went meanwhile, or is a link that leads nowhere
                    told = path.stat()
                    # A pipe would be waited for.
                    if stat.S_ISREG(told.st_mode):
                        found[path.name] = (told.st_mtime_ns, told.st_size)
    except OSError as error:
        raise InputError(f"can't read the folder {folder}: {error.strerror}", fix="Check the path.") from error
    return found


def camera(device: int | str, *, stop: threading.Event) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the frames of a camera or a film, `(height, width, 3)` RGB, until it ends or `stop` is set.

    `device` is what OpenCV opens: a number, a file, a stream's address. MachineError without OpenCV, or where it can't
    open it.
    """
    if find_spec("cv2") is None:
        raise MachineError("OpenCV, which reads cameras, is not installed", fix="pip install opencv-python-headless")
    capture = importlib.import_module("cv2").VideoCapture(device)
    try:
        if not capture.isOpened():
            raise MachineError(f"OpenCV can't open the camera {device!r}", fix="Check its number: ls /dev/video*")
        while not stop.is_set():
            there, frame = capture.read()
            if not there:
                return
            yield np.ascontiguousarray(frame[:, :, ::-1])
    finally:
        capture.release()
