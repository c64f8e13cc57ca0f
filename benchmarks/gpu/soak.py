"""10,000 runs with changing shapes in 4 threads of one session: memory must not grow, and results stay right."""

from __future__ import annotations

import resource
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
from step import Asked, asked, drawn_feeds, sizes_of

import mmtrt
from mmtrt.runtimes.cuda import open_cuda
from mmtrt.tensors import Array

RUNS, THREADS, SHAPES = 10_000, 4, 12


def main() -> None:
    """Soak the smallest INT8 engine that is there."""
    given = asked()
    engines = given.engines("int8")
    path = min((row["int8"] for row in engines.values()), key=lambda engine: engine.stat().st_size)
    told = _soak(given, path)
    given.write(told)
    sys.exit(0 if told["wrong_results"] == 0 and told["runs"] == RUNS else 1)


def _soak(given: Asked, path: Path) -> dict[str, Any]:
    cuda = open_cuda()
    with mmtrt.Session(str(path), contexts=THREADS) as session:
        feeds = [_feeds(session, index) for index in range(SHAPES)]
        truth = [_fresh(path, one) for one in feeds]
        # Each context meets each shape first: what is allocated once is no growth.
        _run(given, session, feeds, truth, SHAPES * THREADS * 4)
        before = cuda.free_bytes(), _rss_mib()
        done, wrong = _run(given, session, feeds, truth, RUNS)
        after = cuda.free_bytes(), _rss_mib()
    cuda.close()
    return {
        "engine": path.name,
        "runs": done,
        "threads": THREADS,
        "shapes": SHAPES,
        "wrong_results": wrong,
        "device_growth_mib": (before[0] - after[0]) / 2**20,
        "host_growth_mib": after[1] - before[1],
    }


def _feeds(session: mmtrt.Session, seed: int) -> dict[str, Array]:
    """Return inputs at a point of the profile."""
    rng = np.random.default_rng(seed)
    sizes = {name: int(rng.integers(low, high + 1)) for name, (low, _, high) in sizes_of(session).items()}
    return drawn_feeds(session, sizes, seed)


def _fresh(path: Path, feeds: dict[str, Array]) -> dict[str, Array]:
    with mmtrt.Session(str(path)) as session:
        return dict(session.run(feeds))


def _run(given: Asked, session: mmtrt.Session, feeds: list[Any], truth: list[Any], runs: int) -> tuple[int, int]:
    lock = threading.Lock()
    counts = {"done": 0, "wrong": 0}

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(runs // THREADS):
            if given.left_s < 2:
                return
            index = int(rng.integers(len(feeds)))
            got = session.run(feeds[index])
            same = all(np.array_equal(got[name], truth[index][name], equal_nan=True) for name in got)
            with lock:
                counts["done"] += 1
                counts["wrong"] += not same

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counts["done"], counts["wrong"]


def _rss_mib() -> float:
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text(encoding="ascii").split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
