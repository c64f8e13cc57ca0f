from __future__ import annotations

import pytest

from mmtrt.bench.series import Series
from mmtrt.runtimes.timing import Timing


def test_a_part_counts_only_where_each_run_has_it() -> None:
    series = Series()
    series.add(Timing(latency_ms=1, host_ms=2, enqueue_ms=0.1, compute_ms=0.5))
    series.add(Timing(latency_ms=3, host_ms=4, compute_ms=0.5))
    series.add(Timing(latency_ms=5, host_ms=6, enqueue_ms=0.1, compute_ms=0.5))
    assert len(series) == 3
    assert list(series.latency_ms) == [1, 3, 5]
    assert series.host_s == pytest.approx(0.012)
    assert {name: list(times) for name, times in series.parts.items()} == {"compute_ms": [0.5] * 3}
    assert Series().parts.keys() == {"enqueue_ms", "h2d_ms", "compute_ms", "d2h_ms"}
