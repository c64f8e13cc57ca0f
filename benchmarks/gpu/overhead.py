"""What the runtime adds: the host's time of a replay, less the GPU's time of the same replay, one event at a time.

Rounds of both in turn in one process. A bound run is what a loop does: inputs lie in pinned memory, one graph holds the
copies and the engine. The GPU's time is that between two events around the same work.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

from step import Asked, asked, drawn_feeds, finish, tried, usual

import mmtrt
from mmtrt.bench.statistics import percentile
from mmtrt.runtimes.tensorrt import TensorRTRunner

RUNS, ROUNDS = 200, 10


def main() -> None:
    """Measure every model that is there."""
    given = asked()
    rows: dict[str, Any] = {}
    for model, engines in given.engines("fp16", "int8").items():
        for precision, engine in engines.items():
            if given.left_s > 5:
                rows[f"{model} {precision}"] = tried(partial(_measure, given, engine))
                given.write({"rows": rows})
    finish(rows)


def _measure(given: Asked, engine: Path) -> dict[str, Any]:
    with mmtrt.Session(str(engine)) as session, TensorRTRunner(engine) as runner:
        feeds = drawn_feeds(session, usual(session))
        host: list[float] = []
        device: list[float] = []
        enqueue: list[float] = []
        with session.bind(feeds) as bound, runner.timed(feeds, cuda_graph=True, transfers=True) as timed:
            for _ in range(RUNS):
                bound.run()
                timed.once()
            for _ in range(ROUNDS):
                host += [_wall_ms(bound) for _ in range(RUNS)]
                told = [timed.once() for _ in range(RUNS)]
                device += [timing.latency_ms for timing in told]
                enqueue += [timing.enqueue_ms for timing in told if timing.enqueue_ms is not None]
                if given.left_s < 2:
                    break
            return {
                "runs": session.runs,
                "cuda_graph": timed.cuda_graph,
                "host_p50_us": percentile(host, 50) * 1e3,
                "gpu_p50_us": percentile(device, 50) * 1e3,
                "overhead_p50_us": (percentile(host, 50) - percentile(device, 50)) * 1e3,
                "enqueue_p50_us": percentile(enqueue, 50) * 1e3 if enqueue else None,
                "n": len(host),
            }


def _wall_ms(bound: Any) -> float:
    start = time.perf_counter_ns()
    bound.run()
    return (time.perf_counter_ns() - start) / 1e6


if __name__ == "__main__":
    main()
