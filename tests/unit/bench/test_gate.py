from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmtrt.bench import statistics
from mmtrt.bench.gate import compare, parse_percent, read_bench
from mmtrt.bench.statistics import percentile, percentile_interval
from mmtrt.errors import InputError, UsageError
from mmtrt.results import BenchResult, BenchRow

MACHINE = {"cpu": "A Chip", "cores": 4, "system": "Linux", "arch": "x86_64", "memory_gib": 8.0}


def row(p50: float = 1.0, sure: float = 0.005, **changes: Any) -> BenchRow:
    """A row whose p50 is known to `sure`."""
    usual = BenchRow(
        file="out/a.engine",
        runs="TensorRT-RTX 1.7.1.116 on NVIDIA H200",
        clock="cuda_event",
        p50_ms=p50,
        p90_ms=p50,
        p99_ms=p50,
        mean_ms=p50,
        n=1000,
        cuda_graph=True,
        transfers=True,
        shapes={"ids": (1, 8)},
        precision="int8",
        figure_ci95=(p50 * (1 - sure), p50 * (1 + sure)),
    )
    return replace(usual, **changes)


def result(*rows: BenchRow, **machine: Any) -> BenchResult:
    return BenchResult(results=rows, machine={**MACHINE, **machine})


@pytest.mark.parametrize(
    ("now", "sure", "verdict"),
    [
        (1.0, 0.005, "pass"),
        (1.02, 0.005, "pass"),
        (1.02, 0.015, "pass"),
        (0.5, 0.005, "pass"),
        (0.8, 0.1, "pass"),
        (1.04, 0.005, "fail"),
        (1.5, 0.1, "fail"),
        (1.04, 0.05, "inconclusive"),
        (1.0, 0.1, "inconclusive"),
    ],
)
def test_a_gate_fails_on_what_is_told_from_noise(now: float, sure: float, verdict: str) -> None:
    gate = compare(result(row(1.0, sure)), result(row(now, sure)), limit=0.03, baseline="b.json")
    (told,) = gate.rows
    assert (gate.verdict, told.verdict) == (verdict, verdict), told.why
    assert told.ratio == pytest.approx(now)
    assert told.ci95[0] <= told.ratio <= told.ci95[1]
    assert json.dumps(gate.to_json(), allow_nan=False)


def test_a_noisy_run_fails_nobody() -> None:
    for before, now in ((0.01, 0.5), (0.5, 0.01)):
        gate = compare(result(row(1.0, cv=before)), result(row(2.0, cv=now)), limit=0.03, baseline="b.json")
        assert gate.verdict == "inconclusive"
        assert "too noisy" in gate.rows[0].why
    assert compare(result(row(cv=0.5)), result(row(cv=0.5)), limit=0.03, baseline="b").verdict == "pass"
    assert compare(result(row(cv=0.01)), result(row(2.0, cv=0.01)), limit=0.03, baseline="b").verdict == "fail"


def test_what_is_faster_than_a_noisy_baseline_is_not_believed() -> None:
    def judged(p50: float, before: float) -> tuple[str, str]:
        gate = compare(result(row(cv=before)), result(row(p50, cv=0.01)), limit=0.03, baseline="b")
        return gate.verdict, gate.rows[0].why

    verdict, why = judged(0.6, 0.5)
    assert verdict == "inconclusive"
    assert "make it again" in why
    assert judged(0.98, 0.5)[0] == "pass"
    verdict, why = judged(0.6, 0.01)
    assert verdict == "pass"
    assert "new baseline" in why


@given(st.floats(0.01, 100), st.floats(0.5, 2), st.floats(0.0001, 0.3), st.floats(0.001, 0.5))
def test_slower_is_never_judged_better(scale: float, factor: float, sure: float, limit: float) -> None:
    order = {"pass": 0, "inconclusive": 1, "fail": 2}
    before = result(row(scale, sure))
    first = compare(before, result(row(scale * factor, sure)), limit=limit, baseline="b").verdict
    slower = compare(before, result(row(scale * factor * 1.5, sure)), limit=limit, baseline="b").verdict
    assert order[slower] >= order[first]
    if factor * 1.5 <= 1:
        assert slower != "fail"


def test_throughput_is_worse_when_it_falls() -> None:
    def rate(value: float) -> BenchResult:
        ends = (value * 0.999, value * 1.001)
        return result(row(scenario="offline", figure="samples_per_s", samples_per_s=value, figure_ci95=ends))

    def judged(now: float) -> str:
        return compare(rate(1000), rate(now), limit=0.03, baseline="b").verdict

    assert [judged(now) for now in (1100, 1000, 980, 950)] == ["pass", "pass", "pass", "fail"]


def test_one_bad_row_fails_all_and_each_is_told() -> None:
    shapes = [{"ids": (n, 8)} for n in (1, 2, 4)]
    before = [row(1.0, shapes=s) for s in shapes]
    now = [row(p50, shapes=s, sizes={"batch": s["ids"][0]}) for p50, s in zip((1, 1.1, 1), shapes, strict=True)]
    gate = compare(result(*before), result(*reversed(now)), limit=0.03, baseline="b")
    assert gate.verdict == "fail"
    assert {told.at: told.verdict for told in gate.rows} == {"batch 1": "pass", "batch 2": "fail", "batch 4": "pass"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"clock": "host"}, "host"),
        ({"cuda_graph": False}, "CUDA graphs"),
        ({"transfers": False}, "transfers"),
        ({"runs": "TensorRT-RTX 1.7.1.116 on NVIDIA L4"}, "NVIDIA L4"),
        ({"runs": "onnxruntime 1.7.1 CPU"}, "onnxruntime"),
        ({"file": "other.engine"}, "a.engine"),
        ({"precision": "fp16"}, "int8"),
        ({"scenario": "single-stream"}, "latency"),
        ({"shapes": {"ids": (2, 8)}}, "1x8"),
        ({"samples": 2}, "samples"),
        ({"figure_ci95": None}, "interval"),
        ({"figure": "no such", "figure_ci95": (1, 1)}, "no such"),
        ({"p50_ms": 0.0}, "interval"),
        ({"p50_ms": math.nan}, "interval"),
    ],
)
def test_what_is_not_the_same_is_an_error(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        compare(result(row(**changes)), result(row()), limit=0.03, baseline="b.json")
    assert "b.json" in caught.value.message or "a.engine" in caught.value.message
    assert caught.value.fix


@pytest.mark.parametrize("name", ["cpu", "cores", "system", "arch"])
def test_another_machine_is_an_error(name: str) -> None:
    with pytest.raises(InputError, match=name):
        compare(result(row(), **{name: "other"}), result(row()), limit=0.03, baseline="b.json")


def test_a_row_that_fell_out_is_an_error_on_both_sides() -> None:
    two = [row(shapes={"ids": (n, 8)}) for n in (1, 2)]
    with pytest.raises(InputError, match="this run has no"):
        compare(result(*two), result(two[0]), limit=0.03, baseline="b")
    with pytest.raises(InputError, match="it has no"):
        compare(result(two[0]), result(*two), limit=0.03, baseline="b")
    with pytest.raises(InputError, match="twice"):
        compare(result(two[0], two[0]), result(two[0]), limit=0.03, baseline="b")


def test_another_folder_and_another_version_are_compared() -> None:
    before = result(row(file="/ci/1/a.engine", runs="TensorRT-RTX 1.8.0.1 on NVIDIA H200"))
    gate = compare(before, result(row()), limit=0.03, baseline="b")
    assert gate.verdict == "pass"
    (note,) = gate.notes
    assert "1.8.0.1" in note
    assert "1.7.1.116" in note


def measured(rng: np.random.Generator, factor: float) -> BenchResult:
    """A run of 400 times whose noise of 3% lasts for some rounds."""
    steps = rng.normal(size=400)
    noise = np.zeros(400)
    for index in range(1, 400):
        noise[index] = 0.7 * noise[index - 1] + 0.7 * steps[index]
    times = factor * np.exp(0.03 * noise)
    return result(row(percentile(times, 50), figure_ci95=percentile_interval(times), cv=0.03))


@pytest.mark.parametrize(
    ("factor", "right", "least"),
    [(1.0, {"pass"}, 95), (0.9, {"pass"}, 100), (1.06, {"fail"}, 95), (1.1, {"fail"}, 100)],
)
def test_two_runs_are_judged_rightly_nearly_always(
    monkeypatch: pytest.MonkeyPatch, factor: float, right: set[str], least: int
) -> None:
    monkeypatch.setattr(statistics, "_MOST", 100)
    monkeypatch.setattr(statistics, "_LEAST", 100)
    rng = np.random.default_rng(round(100 * factor))
    verdicts = [
        compare(measured(rng, 1.0), measured(rng, factor), limit=0.03, baseline="b").verdict for _ in range(100)
    ]
    assert sum(verdict in right for verdict in verdicts) >= least


# -------------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize(("text", "wanted"), [("3%", 0.03), (" 2.5 % ", 0.025), (".5%", 0.005), ("150%", 1.5)])
def test_a_percentage(text: str, wanted: float) -> None:
    assert parse_percent(text) == pytest.approx(wanted)


@pytest.mark.parametrize("text", ["3", "0.03", "0%", "-1%", "nan%", "inf%", "%", "", "3%%", "1e1%", "³%"])
def test_what_is_no_percentage(text: str) -> None:
    with pytest.raises(UsageError):
        parse_percent(text)


def test_a_result_comes_back() -> None:
    kept = result(row(sizes={"batch": 1}, warnings=("x",), ratio={"p50": 1.0}))
    data = json.loads(json.dumps(kept.to_json()))
    assert read_bench(data, "b.json") == kept


@pytest.mark.parametrize(
    "data",
    [
        [],
        "text",
        {},
        {"schema": "mmtrt.check/1"},
        {"schema": "mmtrt.bench/1"},
        {"schema": "mmtrt.bench/1", "results": [], "machine": {}, "ratio": None},
        {"schema": "mmtrt.bench/1", "results": 3, "machine": {}, "ratio": None},
        {"schema": "mmtrt.bench/1", "results": [{"file": "a"}], "machine": {}, "ratio": None},
        {**result(row()).to_json(), "machine": None},
        {**result(row()).to_json(), "results": [{**row().to_json(), "file": 3}]},
        {**result(row()).to_json(), "results": [{**row().to_json(), "figure_ci95": [1]}]},
        {**result(row()).to_json(), "results": [{**row().to_json(), "shapes": [1]}]},
    ],
)
def test_what_is_no_benchmark_is_refused(data: Any) -> None:
    with pytest.raises(InputError, match=r"b\.json"):
        read_bench(data, "b.json")
