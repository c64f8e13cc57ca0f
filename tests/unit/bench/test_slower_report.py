from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from mmtrt.bench.layers import LayerTime, Nodes, placed, summed
from mmtrt.bench.slower import compare_builds
from mmtrt.errors import UsageError
from mmtrt.report.layers_picture import layers_picture
from mmtrt.report.slower import slower_view

NODES = Nodes(branches={"conv": "image [x]", "query": "text"}, modules={}, ops={"conv": "Conv", "query": "MatMul"})


def layer(name: str, node: str, ms: float, precision: str) -> LayerTime:
    return LayerTime(name=name, kind="k", nodes=(node,), precision=precision, ms=ms, share=0.0, **placed([node], NODES))


BEFORE = [layer("a", "conv", 1.0, "fp16"), layer("b", "query", 1.0, "fp16")]
AFTER = [layer("a", "conv", 1.5, "fp16"), layer("b", "query", 0.25, "int8")]


def text(view: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(view)
    shown = console.file
    assert isinstance(shown, io.StringIO)
    return shown.getvalue()


def test_a_slower_part_stands_with_its_times_and_its_reason() -> None:
    shown = text(slower_view(compare_builds(BEFORE, AFTER, NODES, names=("f16", "i8")).to_json()))
    assert "where i8 is not faster than f16" in shown
    row = next(line for line in shown.splitlines() if "still computed in fp16" in line)
    assert row.split() == [
        "?",
        "image",
        "[x]",
        "1.5000",
        "1.0000",
        "fp16",
        "1",
        "to",
        "1",
        "still",
        "computed",
        "in",
        "fp16",
    ]
    assert "all of them together 0.875 of the time" in shown


def test_without_a_run_no_time_is_shown() -> None:
    before, after = [layer("a", "conv", 0, "fp16")], [layer("a", "conv", 0, "fp16"), layer("c", "conv", 0, "fp32")]
    shown = text(slower_view(compare_builds(before, after, NODES, names=("f16", "i8"), timed=False).to_json()))
    assert "where i8 may not be faster than f16" in shown
    assert "ms" not in shown
    assert "nothing ran" in shown


def test_where_nothing_loses_that_is_said() -> None:
    assert "nowhere" in text(slower_view(compare_builds(BEFORE, AFTER[1:], NODES).to_json()))


def test_more_than_fit_are_counted() -> None:
    found = compare_builds(BEFORE, AFTER, NODES).to_json()
    assert "5 more" in text(slower_view({**found, "slower": list(found["slower"]) * 20}))


def layers(file: str, ms: float) -> dict[str, Any]:
    kernels = [layer("a", "conv", ms, "fp16"), layer("b", "query", 1.0, "fp16")]
    return summed(file=file, runs="r", source="s", layers=kernels, latency_ms=ms + 1.5, profiled=3).to_json()


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_picture_has_a_bar_a_file(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"layers.{suffix}"
    layers_picture([layers("one.onnx", 2.0), layers("two.onnx", 1.0)], path)
    if suffix == "svg":
        drawn = path.read_text(encoding="utf-8")
        assert all(f"<!-- {name} -->" in drawn for name in ("one.onnx", "two.onnx", "image [x]", "text", "2.00"))
    else:
        assert path.read_bytes().startswith(b"\x89PNG")


def test_more_bars_than_fit_are_counted(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    layers_picture([layers(f"$a_{n}$.onnx", 2.0) for n in range(30)], tmp_path / "a.svg")
    drawn = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert "the first 24 of 30 rows" in drawn
    assert "<!-- $a_0$.onnx -->" in drawn


def test_a_picture_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        layers_picture([layers("one.onnx", 2.0)], tmp_path / "layers.txt")
