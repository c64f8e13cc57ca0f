"""Kinds of modules that do not export, or whose graph the parser refuses, without what mmtrt mends."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import kinds
import mended
import numpy as np
import pytest
import torch
from torch import nn

from mmtrt.export.patches import patched
from mmtrt.runtimes.ort import OrtRunner
from mmtrt.tensors import Array


def places() -> Iterator[dict[str, Array]]:
    for batch, length in ((2, 5), (1, 2), (4, 12)):
        x = np.random.default_rng(length).standard_normal((batch, length, 8)).astype(np.float32)
        # Rounded, so that values meet edges and one another.
        yield {"x": x.round(1)}


def windows() -> Iterator[dict[str, Array]]:
    for batch in (2, 1, 4):
        yield {"image": np.random.default_rng(batch).standard_normal((batch, 8, 8, 8)).astype(np.float32)}


def grid() -> Iterator[dict[str, Array]]:
    for batch, height, width in ((2, 24, 32), (1, 8, 32), (4, 16, 8)):
        image = np.random.default_rng(batch).standard_normal((batch, 3, 24, 32)).astype(np.float32)
        mask = np.ones((batch, 24, 32), dtype=np.int64)
        mask[0, height:], mask[0, :, width:] = 0, 0
        yield {"pixel_values": image, "pixel_mask": mask}


def queries() -> Iterator[dict[str, Array]]:
    for batch, length in ((2, 5), (1, 2), (4, 12)):
        yield from mended.texts(batch, length)


def pairs() -> Iterator[dict[str, Array]]:
    for batch, length in ((2, 5), (1, 2), (4, 12)):
        rng = np.random.default_rng(batch)
        made = {"x": rng.standard_normal((batch, length, 8)), "image": rng.standard_normal((batch, 4))}
        yield {name: array.astype(np.float32) for name, array in made.items()}


KINDS = {
    "places": (places, {"translation search", "translation cumulative", "translation truth"}),
    "windows": (windows, {"patch layouts", "translation attention"}),
    "grid": (grid, {"patch grids"}),
    "queries": (queries, {"patch padding"}),
    "pairs": (pairs, {"patch lengths"}),
}


@pytest.mark.parametrize("name", KINDS)
def test_it_agrees_at_any_shape_and_builds(name: str, tmp_path: Path) -> None:
    feeds, applied = KINDS[name]
    source = mended.source(getattr(kinds, name)())
    made = mended.export(source, tmp_path)
    assert set(made.applied) == applied
    mended.assert_agrees(source, made.onnx, feeds())
    for precision in ("fp16", "int8"):
        assert mended.build(mended.converted(made, precision), made.spec.dynamic_profile()).is_file()


@pytest.mark.parametrize("size", [(24, 32), (8, 32), (24, 8), (8, 8), (16, 24)])
def test_a_patched_grid_is_what_the_module_says_of_each_image(size: tuple[int, int]) -> None:
    module, inputs, *_ = kinds.grid()
    inputs["pixel_mask"][1, size[0] :], inputs["pixel_mask"][1, :, size[1] :] = 0, 0
    with torch.inference_mode():
        told = module(**inputs)
        with patched(module, str):
            got = module(**inputs)
    assert torch.allclose(told, got, atol=1e-5)


def test_a_limit_that_drops_patches_at_random_is_left_to_the_module() -> None:
    module, inputs, *_ = kinds.grid()
    heard: list[str] = []
    with patched(module, heard.append), pytest.raises(AssertionError):
        module.visual_embed(**inputs, max_image_length=3)
    assert heard == []


class Extremes(nn.Module):
    """What a row's largest and smallest values so far are, and where: scores may begin with an infinite mask."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (*x.cummax(dim=1), *x.cummin(dim=1))


def test_running_extremes_begin_with_infinities(tmp_path: Path) -> None:
    row = [-math.inf, -math.inf, 1.0, 0.5, math.inf, 2.0]
    x = torch.tensor([row, [-value for value in row]])
    source = mended.source((Extremes().eval(), {"x": x}, {"x": {0: "batch"}}, {}))
    path, _ = mended.traced(source, tmp_path)
    wanted = [array.numpy() for array in Extremes()(x)]
    with OrtRunner(path, "parity") as runner:
        for got, reference in zip(runner.infer({"x": x.numpy()}).values(), wanted, strict=True):
            np.testing.assert_array_equal(got, reference)
