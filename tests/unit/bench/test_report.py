"""A benchmark as people see it: the table, CSV, the picture."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mmtrt.bench.layers import LayerTime, summed
from mmtrt.errors import MachineError, UsageError
from mmtrt.report.bench import bench_view
from mmtrt.report.bench_files import BenchFiles, rows_csv, write_times
from mmtrt.results import BenchResult, BenchRow


def row(file: str = "a.onnx", **changes: Any) -> BenchRow:
    usual = BenchRow(
        file=file,
        runs="onnxruntime 1.30.0 CPU",
        clock="host",
        p50_ms=1.234,
        p90_ms=2.0,
        p95_ms=2.5,
        p99_ms=3.0,
        mean_ms=1.5,
        cv=0.123,
        n=4,
        cuda_graph=False,
        transfers=True,
        shapes={"ids": (1, 8), "scale": ()},
        samples_per_s=810.4,
        p50_ci95_ms=(1.2, 1.3),
        times={"latency_ms": [1.0, 1.2, 1.3, 3.0]},
    )
    return replace(usual, **changes)


DEVICE: dict[str, Any] = {
    "clock": "cuda_event",
    "cuda_graph": True,
    "h2d_p50_ms": 0.1,
    "compute_p50_ms": 1.0,
    "d2h_p50_ms": 0.1,
    "enqueue_p50_ms": 0.02,
    "host_p50_ms": 1.25,
    "overhead_p50_ms": 0.0123,
}
RATIO = {"against": "a.onnx", "p50": 0.5, "ci95": [0.45, 0.561]}


def result(*rows: BenchRow, **changes: Any) -> BenchResult:
    return BenchResult(results=rows, machine={"cpu": "A Chip", "cores": 4}, **changes)


def shown(bench: BenchResult) -> str:
    console = Console(width=250, record=True, file=io.StringIO())
    console.print(bench_view(bench))
    return console.export_text()


def line(text: str, start: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.startswith(start))


def test_a_row_per_file_and_the_ratio() -> None:
    text = shown(result(row("a.onnx"), row("b.onnx", ratio=RATIO)))
    assert line(text, "a.onnx")[:9] == ["a.onnx", "1.234", "2.000", "2.500", "3.000", "1.500", "12.3", "4", "810.4"]
    assert line(text, "a.onnx")[-6:] == ["host", "off", "in", "onnxruntime", "1.30.0", "CPU"]
    assert "0.50 [0.45, 0.56]" in text
    assert "shapes ids:1x8,scale:scalar; A Chip, 4 cores" in text
    assert "GPU compute" not in text, "what was not measured has no column"
    assert "W" not in line(text, "file")


def test_a_device_s_parts_stand_below() -> None:
    text = shown(result(row("a.engine", **DEVICE, transfers=False)))
    assert line(text, "a.engine")[-6:-3] == ["cuda_event", "on", "out"]
    assert "0.1000       1.0000  0.1000   0.0200  1.2500      0.0123" in text


def test_a_sweep_says_its_sizes_in_each_row() -> None:
    rows = [row(sizes={"batch": n, "text": 8}, warnings=("noisy: cv",)) for n in (1, 2, 4)]
    text = shown(result(*rows))
    assert all(f"batch {n}, text 8" in text for n in (1, 2, 4))
    assert "shapes" not in text
    assert "warning: a.onnx at batch 1, text 8: noisy: cv (and 2 more rows: --json tells all)" in text


def test_scenarios_and_sensors_have_their_columns() -> None:
    told = {"energy_mj_per_query": 12.345, "power_w": {"min": 90, "mean": 100.4, "max": 110}, "device": "A GPU"}
    one = row(telemetry=told, scenario="single-stream", figure="p90_ms", early_stopping_ms=2.125)
    spread = {"min": 1200, "mean": 1300, "max": 1400}
    text = shown(result(one, telemetry={**told, "sm_clock_mhz": spread, "throttle": ["power"]}))
    assert "12.35" in text or "12.34" in text
    assert "2.125" in text
    assert "single-stream: p90_ms is the result" in text
    assert "A GPU: SM clock 1300 (1200 to 1400) MHz, power 100 (90 to 110) W, held back by power" in text


# ----------------------------------------------------------------------------------------------------------- CSV


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_line_per_row() -> None:
    odd = row('b,"2".onnx', sizes={"batch": 2}, ratio=RATIO, warnings=("noisy: x", "few: y"))
    first, second = read(rows_csv([row(), odd]))
    assert (first["file"], float(first["p50_ms"]), first["clock"]) == ("a.onnx", 1.234, "host")
    assert (first["p50_ci95_ms_low"], first["p50_ci95_ms_high"]) == ("1.2", "1.3")
    assert (first["shapes"], first["size_batch"], first["ratio_p50"]) == ("ids:1x8,scale:scalar", "", "")
    assert second["file"] == 'b,"2".onnx'
    assert (second["size_batch"], second["ratio_p50"], second["ratio_ci95_high"]) == ("2", "0.5", "0.561")
    assert second["warnings"] == "noisy: x; few: y"
    assert not {"times", "sizes", "telemetry", "layers"} & first.keys()


def test_a_line_per_run() -> None:
    two = row("b", sizes={"batch": 2}, times={"latency_ms": [1.0, 2.0], "host_ms": [1.5, 2.5]}, n=2)
    stream = io.StringIO()
    write_times([row(), two], stream)
    lines = read(stream.getvalue())
    assert [line["latency_ms"] for line in lines] == ["1.0", "1.2", "1.3", "3.0", "1.0", "2.0"]
    assert [line["run"] for line in lines] == ["0", "1", "2", "3", "0", "1"]
    assert (lines[0]["host_ms"], lines[-1]["host_ms"], lines[-1]["size_batch"], lines[-1]["row"]) == (
        "",
        "2.5",
        "2",
        "1",
    )


# --------------------------------------------------------------------------------------------------------- files


def test_files_appear_where_they_are_named(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = BenchFiles(csv=tmp_path / "new" / "a.csv", samples=tmp_path / "s.csv", plot=tmp_path / "a.svg")
    files.check(["a.onnx"])
    rows = [row(name, sizes={"batch": n}) for n in (1, 2) for name in ("$a$", "b[1].onnx")]
    files.write(result(*rows))
    assert (tmp_path / "new" / "a.csv").read_text().count("\n") == 5
    assert (tmp_path / "s.csv").read_text().count("\n") == 17
    drawn = (tmp_path / "a.svg").read_text()
    assert drawn.startswith("<?xml")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.svg", "new", "s.csv"]


def test_with_layers_a_second_picture_lies_beside_the_first(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    kernel = LayerTime(
        name="a",
        kind="k",
        nodes=(),
        precision="fp16",
        ms=1.0,
        share=1.0,
        branch="image",
        module="m",
        parts={"image": 1.0},
    )
    told = summed(file="f", runs="r", source="s", layers=[kernel], latency_ms=1.5, profiled=3).to_json()
    files = BenchFiles(plot=tmp_path / "a b.svg", layers=True)
    files.check(["a.onnx"])
    files.write(result(row(sizes={"batch": 1}, layers=told), row(sizes={"batch": 2})))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a b.layers.svg", "a b.svg"]
    drawn = (tmp_path / "a b.layers.svg").read_text()
    assert "at batch 1" in drawn
    assert "at batch 2" not in drawn


def test_rows_without_layers_have_no_second_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    BenchFiles(plot=tmp_path / "a.svg", layers=True).write(result(row()))
    assert [p.name for p in tmp_path.iterdir()] == ["a.svg"]


@pytest.mark.parametrize(
    "rows",
    [
        [row(times={"latency_ms": [1.0, 1.0]}, p50_ms=1.0, p99_ms=1.0, n=2)],
        [row(times={})],
        [row(str(n), sizes={"batch": n}) for n in range(1, 31)],
        [row(samples_per_s=None, sizes={"batch": n}) for n in (1, 2)],
    ],
    ids=["equal", "from the cache", "many", "no throughput"],
)
def test_odd_results_are_drawn_too(tmp_path: Path, rows: list[BenchRow]) -> None:
    pytest.importorskip("matplotlib")
    BenchFiles(plot=tmp_path / "a.png").write(result(*rows))
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_what_can_t_be_written_is_refused_before_measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("x")
    Path("a.onnx").write_text("x")
    for files in (
        BenchFiles(csv=Path()),
        BenchFiles(csv=tmp_path),
        BenchFiles(samples=Path("file/a.csv")),
        BenchFiles(csv=Path("a.onnx")),
        BenchFiles(csv=Path("x.csv"), samples=tmp_path / "x.csv"),
        BenchFiles(plot=Path("a.bmp")),
        BenchFiles(plot=Path(), layers=True),
        BenchFiles(csv=Path("a.layers.png"), plot=Path("a.png"), layers=True),
    ):
        with pytest.raises(UsageError):
            files.check(["a.onnx"])


def test_a_folder_that_may_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UsageError, match="may not be written"):
        BenchFiles(csv=tmp_path / "new" / "a.csv").check([])


def test_a_disk_that_refuses_leaves_no_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(MachineError, match="full"):
        BenchFiles(csv=tmp_path / "a.csv").write(result(row()))
    assert list(tmp_path.iterdir()) == []
