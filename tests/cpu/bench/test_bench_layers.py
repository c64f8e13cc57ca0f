"""`mmtrt bench --layers`: whose profiler tells, and what is said where there is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mmtrt.bench.queries import Shape
from mmtrt.pipeline.bench_layers import with_layers
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.sides import Subject, open_subject
from mmtrt.results import BenchResult, BenchRow
from mmtrt.tensors import Array, Feeds, TensorSpec

if TYPE_CHECKING:
    from typing_extensions import Self

FEEDS = {"x": np.zeros((1, 3), np.float32)}
ROW = BenchRow(
    file="",
    runs="",
    clock="cuda_event",
    p50_ms=1.0,
    p90_ms=1.0,
    p99_ms=1.0,
    mean_ms=1.0,
    n=10,
    cuda_graph=True,
    transfers=True,
    shapes={"x": (1, 3)},
    compute_p50_ms=0.8,
)


class Engine:
    """Tells two layers, the first runs slower."""

    runs = "TensorRT-RTX 1.7.1 on Fake GPU"
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    def __init__(self) -> None:
        self.open = False
        self.calls = 0

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        return dict(feeds)

    def profiled(self, feeds: Feeds) -> tuple[tuple[str, float], ...]:
        assert self.open
        assert feeds is FEEDS
        self.calls += 1
        slow = 100.0 if self.calls <= 3 else 1.0
        return ("conv", 0.6 * slow), ("gemm", 0.2 * slow)

    def __enter__(self) -> Self:
        self.open = True
        return self

    def __exit__(self, *exc: object) -> None:
        self.open = False


def told(subject: Subject, notes: list[str]) -> BenchRow:
    bench = BenchResult(results=(replace(ROW, file=subject.what),), machine={})
    context = Context(note=notes.append)
    (row,) = with_layers(context, bench, [subject], [Shape(feeds=FEEDS)]).results
    return row


@pytest.fixture
def engine(tiny: Path, tmp_path: Path) -> Subject:
    made = Engine()
    return replace(open_subject(str(tiny)), what=str(tmp_path / "a.engine"), fast=lambda: made)


def test_an_engine_s_profiler_tells(engine: Subject) -> None:
    rows = [
        {
            "name": name,
            "kind": name,
            "role": "kernel",
            "nodes": [f"node_{name}"],
            "modules": [module],
            "precision": "int8",
            "inputs": [{"name": f"{name}_in", "dtype": "int8"}],
            "outputs": [{"name": f"{name}_out", "dtype": "int8"}],
        }
        for name, module in (("conv", "image.stem"), ("gemm", "text.query"))
    ]
    Path(f"{engine.what}.layers.json").write_text(json.dumps({"layers": rows}))
    notes: list[str] = []
    layers = told(engine, notes).layers
    assert layers is not None
    assert [(one["name"], one["ms"], one["precision"]) for one in layers["layers"]] == [
        ("conv", pytest.approx(0.6), "int8"),
        ("gemm", pytest.approx(0.2), "int8"),
    ]
    assert {name: row["share"] for name, row in layers["branches"].items()} == pytest.approx(
        {"image": 0.75, "text": 0.25}
    )
    assert layers["attributed"] == pytest.approx(1), "of what the GPU computes, copies aside"
    assert notes == []


def test_an_engine_without_its_table_has_layers_of_no_branch(engine: Subject) -> None:
    layers = told(engine, []).layers
    assert layers is not None
    assert layers["unknown"] == pytest.approx(1)
    assert "not in the engine's table" in layers["notes"][0]


def test_what_has_no_profiler_is_told(engine: Subject) -> None:
    notes: list[str] = []
    row = told(replace(engine, what="zoo:vqa"), notes)
    assert row.layers is None
    assert "zoo:vqa" in notes[0]


def test_an_onnx_is_told_by_onnxruntime(cli: object, tiny: Path) -> None:
    said = cli("bench", tiny, "--duration", "0.02", "--layers", "--json")  # type: ignore[operator]
    assert said.code == 0, said.err
    (row,) = json.loads(said.out)["results"]
    assert set(row["layers"]["branches"]) >= {"image", "text"}
    said = cli("bench", tiny, "--duration", "0.02", "--layers")  # type: ignore[operator]
    assert "where the time of" in said.out
    assert "image" in said.out
