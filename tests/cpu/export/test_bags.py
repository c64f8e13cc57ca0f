"""Bags of embeddings are a gather and a reduction: no loop is left, and every kind says what PyTorch says."""

from __future__ import annotations

from pathlib import Path

import kinds
import mended
import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional

from mmtrt.export.patches import patched


@pytest.mark.parametrize("padding", [None, 0, -3])
@pytest.mark.parametrize(("mode", "weighted"), [("sum", False), ("mean", False), ("max", False), ("sum", True)])
@pytest.mark.parametrize(
    ("ids", "offsets", "last"),
    [
        ([[1, 0, 17], [0, 0, 0]], None, False),
        ([1, 0, 17, 0, 5], [0, 0, 3], False),
        ([1, 0, 17, 0, 5], [0, 2, 5, 5], True),
        ([1, 0, 17], [0], False),
    ],
)
def test_a_bag_is_what_pytorch_says(
    ids: list[int], offsets: list[int] | None, last: bool, mode: str, padding: int | None, weighted: bool
) -> None:
    given = torch.tensor(ids)
    weight = torch.randn(20, 4)
    options = {
        "mode": mode,
        "padding_idx": padding,
        "include_last_offset": last,
        "offsets": None if offsets is None else torch.tensor(offsets),
        "per_sample_weights": torch.randn(given.shape) if weighted else None,
    }
    told = functional.embedding_bag(given, weight, **options)
    heard: list[str] = []
    with patched(torch.nn.Identity(), heard.append):
        got = functional.embedding_bag(given, weight, **options)
    assert heard == ["bags"]
    assert torch.allclose(told, got, atol=1e-6)


def feeds(name: str) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    made = []
    for batch, length in ((2, 5), (1, 2), (4, 12)):
        x = rng.standard_normal((batch, 4)).astype(np.float32)
        if name == "bags":
            ids = rng.integers(0, 20, (batch, length)) * rng.integers(0, 2, (batch, length))
            made += [{"x": x, "ids": ids}, {"x": x, "ids": np.zeros_like(ids)}]
        else:
            starts = np.sort(rng.integers(0, 9, 3))
            starts[0] = 0
            made.append({"x": x[:1].repeat(3, 0), "ids": rng.integers(0, 20, length + 7), "starts": starts})
    return made


def test_bags_of_one_length_go_the_whole_way(tmp_path: Path) -> None:
    source = mended.source(kinds.bags())
    made = mended.export(source, tmp_path)
    assert made.applied == ("patch bags",)
    assert not _kinds_of(made.onnx) & LOOPS
    mended.assert_agrees(source, made.onnx, feeds("bags"))
    for precision in ("fp16", "int8"):
        assert mended.build(mended.converted(made, precision), made.spec.dynamic_profile()).is_file()


def test_bags_that_offsets_delimit_are_built(tmp_path: Path) -> None:
    source = mended.source(kinds.delimited())
    path, ranges = mended.traced(source, tmp_path)
    assert not _kinds_of(path) & LOOPS
    mended.assert_agrees(source, path, feeds("delimited"))
    assert mended.build(path, mended.profile(source, ranges)).is_file()


LOOPS = {"Loop", "Scan", "If", "SequenceEmpty"}


def _kinds_of(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(str(path)).graph.node}
