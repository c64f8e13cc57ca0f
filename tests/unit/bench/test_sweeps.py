from __future__ import annotations

import pytest

from mmtrt.bench.scenarios import SCENARIOS, scenario_of
from mmtrt.bench.sweeps import parse_sweeps, shapes_of
from mmtrt.errors import UsageError


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("batch=1,2,4,8", (1, 2, 4, 8)),
        ("batch=8,1", (8, 1)),
        ("batch=1..16x2", (1, 2, 4, 8, 16)),
        ("batch=1..10x3", (1, 3, 9)),
        ("batch=2..5", (2, 3, 4, 5)),
        ("batch=8..40+16,64", (8, 24, 40, 64)),
        ("batch = 3 , 4", (3, 4)),
        ("batch=4..4", (4,)),
    ],
)
def test_sizes_are_listed_or_counted(text: str, wanted: tuple[int, ...]) -> None:
    assert parse_sweeps([text]) == {"batch": wanted}


@pytest.mark.parametrize(
    "texts",
    [
        ["batch"],
        ["batch="],
        ["=1,2"],
        ["batch=0"],
        ["batch=-1"],
        ["batch=1.5"],
        ["batch=1,,2"],
        ["batch=a"],
        ["batch=4..1"],
        ["batch=0..4"],
        ["batch=1..8x1"],
        ["batch=1..8x0"],
        ["batch=1..8+0"],
        ["batch=1,1"],
        ["batch=1..4,2"],
        ["batch=1", "batch=2"],
        ["batch=1..99999999"],
        ["batch=1..30", "text=1..30"],
        ["batch=²"],
    ],
)
def test_what_is_no_sweep_is_refused(texts: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        parse_sweeps(texts)
    assert caught.value.fix


def test_several_sweeps_multiply() -> None:
    assert shapes_of(parse_sweeps(["batch=1,2", "text=4,8"])) == [
        {"batch": 1, "text": 4},
        {"batch": 1, "text": 8},
        {"batch": 2, "text": 4},
        {"batch": 2, "text": 8},
    ]
    assert shapes_of({}) == [{}]


def test_a_short_run_is_told_to_be_no_mlperf_result() -> None:
    single, multi, offline = (SCENARIOS[name] for name in ("single-stream", "multi-stream", "offline"))
    assert SCENARIOS["latency"].shortfall(3, 10, 10) is None
    assert "600 s and 64 queries" in (single.shortfall(3, 10_000, 10_000) or "")
    assert single.shortfall(600, 64, 64) is None
    assert "662 queries" in (multi.shortfall(601, 600, 4800) or "")
    assert "24576 samples" in (offline.shortfall(601, 1000, 24_575) or "")
    assert offline.shortfall(601, 1000, 24_576) is None


def test_an_unknown_scenario_is_refused() -> None:
    assert scenario_of("offline").figure == "samples_per_s"
    with pytest.raises(UsageError, match="server"):
        scenario_of("server")
