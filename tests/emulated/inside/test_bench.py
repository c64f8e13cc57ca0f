"""`mmtrt bench` of engines on the emulated GPU: everything but that its times mean something."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from emulated_gpu import Emulated
from plans import make_plan

QUICK = ("--duration", "0.1", "--warm-up", "10")
Bench = Callable[..., tuple[object, Any, str]]


@pytest.fixture(scope="module")
def engine(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_plan(tiny, tmp_path_factory.mktemp("engines") / "tiny.engine")


@pytest.fixture(scope="module")
def idle(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_plan(tiny, tmp_path_factory.mktemp("engines") / "idle.engine", work="spin:300000")


@pytest.fixture(autouse=True)
def nothing_stays(emulated: Emulated) -> Iterator[None]:
    before = emulated.live
    yield
    assert emulated.live == before


@pytest.fixture
def bench(command: Callable[..., tuple[object, Any, str]]) -> Bench:
    """Run `mmtrt bench --json`."""
    return partial(command, "bench")


def test_a_row_tells_the_parts_of_the_time(bench: Bench, engine: Path, emulated: Emulated) -> None:
    launched = emulated.calls("cuGraphLaunch")
    code, found, err = bench(engine, *QUICK)
    assert code == 0, err
    (row,) = found["results"]
    assert emulated.calls("cuGraphLaunch") >= launched + row["n"]
    assert (row["clock"], row["cuda_graph"], row["transfers"]) == ("cuda_event", True, True)
    assert "Emulated GPU" in row["runs"]
    assert row["precision"] == "emulated"
    for part in ("h2d_p50_ms", "compute_p50_ms", "d2h_p50_ms", "enqueue_p50_ms", "overhead_p50_ms"):
        assert row[part] is not None
    assert row["compute_p50_ms"] < row["p50_ms"] <= row["host_p50_ms"]
    assert row["samples_per_s"] > 0
    assert row["telemetry"]["source"] == "nvml"
    assert row["telemetry"]["energy_mj_per_query"] > 0
    assert found["telemetry"]["device"]


def test_flags_change_what_runs(bench: Bench, engine: Path, emulated: Emulated) -> None:
    launched = emulated.calls("cuGraphLaunch")
    _, found, _ = bench(engine, *QUICK, "--no-cuda-graph", "--no-transfers")
    (row,) = found["results"]
    assert emulated.calls("cuGraphLaunch") == launched
    assert (row["cuda_graph"], row["transfers"], row["h2d_p50_ms"], row["d2h_p50_ms"]) == (False, False, None, None)


def test_two_engines_in_turn_over_a_sweep(bench: Bench, engine: Path, idle: Path) -> None:
    code, found, err = bench(engine, idle, *QUICK, "--sweep", "batch=1,8", "--sweep", "text=4", "--csv", "rows.csv")
    assert code == 0, err
    assert [(row["sizes"]["batch"], Path(row["file"]).name) for row in found["results"]] == [
        (1, "tiny.engine"),
        (1, "idle.engine"),
        (8, "tiny.engine"),
        (8, "idle.engine"),
    ]
    for row in found["results"][1::2]:
        low, high = row["ratio"]["ci95"]
        assert 0 < low <= row["ratio"]["p50"] <= high
        assert row["ratio"]["throughput"] > 0
    assert len(Path("rows.csv").read_text().splitlines()) == 5


@pytest.mark.parametrize("scenario", ["single-stream", "multi-stream", "offline"])
def test_scenarios_run(bench: Bench, engine: Path, scenario: str) -> None:
    code, found, err = bench(engine, *QUICK, "--scenario", scenario)
    assert code == 0, err
    (row,) = found["results"]
    assert (row["clock"], row["scenario"]) == ("host", scenario)


def test_a_gpu_s_time_and_a_cpu_s_are_compared_by_the_caller_s_clock_alone(
    bench: Bench, engine: Path, tiny: Path
) -> None:
    code, found, _ = bench(engine, tiny, *QUICK)
    assert code == 4
    assert "--clock host" in found["fix"]
    code, found, err = bench(engine, tiny, *QUICK, "--clock", "host")
    assert code == 0, err
    assert [row["clock"] for row in found["results"]] == ["host", "host"]
    assert found["ratio"][str(tiny)]["p50"] > 0


def test_layers_are_told(bench: Bench, engine: Path) -> None:
    code, found, err = bench(engine, *QUICK, "--layers")
    assert code == 0, err
    layers = found["results"][0]["layers"]
    assert layers["source"] == "TensorRT's profiler"
    assert len(layers["layers"]) > 3


def test_a_baseline_of_the_gpu_is_none_of_the_cpu(bench: Bench, engine: Path) -> None:
    _, found, _ = bench(engine, *QUICK)
    found["results"][0]["clock"] = "host"
    Path("base.json").write_text(json.dumps(found))
    code, told, _ = bench(engine, *QUICK, "--baseline", "base.json")
    assert code == 3
    assert "host" in told["error"]


def test_sizes_beyond_the_profile_are_refused_before_anything_is_loaded(
    bench: Bench, engine: Path, emulated: Emulated
) -> None:
    before = emulated.calls("cuGraphLaunch")
    code, told, _ = bench(engine, *QUICK, "--sweep", "batch=1,64")
    assert code == 2
    assert "1 to 8" in told["error"]
    assert emulated.calls("cuGraphLaunch") == before
