from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mmtrt.metrics.detection import CenterAp
from mmtrt.zoo.blocks.bev import CameraLift, Grid, PillarEncoder
from mmtrt.zoo.checkpoints import checkpoint_path
from mmtrt.zoo.data import surround
from mmtrt.zoo.data.world import Camera
from mmtrt.zoo.models.bev import Bev, bev_loss, bev_scores, factory, load, targets, to_inputs

CHECKPOINT = checkpoint_path("bev")
CARD = CHECKPOINT.parents[1] / "cards" / "bev.json"
CLOSE = {"rtol": 1e-4, "atol": 2e-4}
LIDAR = ("pillars", "cells", "pillar_mask")

Inputs = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def model() -> Bev:
    return load()


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    return to_inputs(surround.collate(list(surround.samples("validation", 4))))


def said(model: Bev, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode():
        heatmap, offset = model(**inputs)
    return heatmap, offset


def same(one: tuple[torch.Tensor, ...], two: tuple[torch.Tensor, ...]) -> None:
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


@pytest.mark.parametrize("count", [1, 3])
def test_outputs_have_the_declared_shapes(model: Bev, count: int) -> None:
    heatmap, offset = said(model, to_inputs(surround.collate(list(surround.samples("validation", count)))))
    assert heatmap.shape == (count, 3, 32, 32)
    assert offset.shape == (count, 2, 32, 32)


def test_the_order_of_points_and_pillars_changes_nothing(model: Bev, inputs: Inputs) -> None:
    turn = torch.randperm(inputs["cells"].shape[1], generator=torch.Generator().manual_seed(0))
    turned = inputs | {name: inputs[name][:, turn] for name in LIDAR}
    turned["pillars"] = turned["pillars"].flip(2)
    same(said(model, inputs), said(model, turned))


def test_padding_changes_nothing(model: Bev, inputs: Inputs) -> None:
    def padded(value: torch.Tensor, fill: float) -> torch.Tensor:
        return torch.cat([value, torch.full_like(value[:, :9], fill)], dim=1)

    # What lies under a mask of 0 has no say, whatever cell it names.
    fills = {"pillars": 7.5, "cells": 17, "pillar_mask": 0}
    same(said(model, inputs), said(model, inputs | {name: padded(inputs[name], fills[name]) for name in LIDAR}))


def test_an_event_says_the_same_alone(model: Bev, inputs: Inputs) -> None:
    together = said(model, inputs)
    for row in range(4):
        alone = said(model, {name: value[row : row + 1] for name, value in inputs.items()})
        same(alone, tuple(one[row : row + 1] for one in together))


@pytest.mark.parametrize("missing", ["one camera", "cameras", "lidar", "all"])
def test_what_is_missing_leaves_it_finite_and_makes_a_difference(model: Bev, inputs: Inputs, missing: str) -> None:
    poorer = {name: value.clone() for name, value in inputs.items()}
    if missing in {"cameras", "all"}:
        poorer["images"].zero_()
    if missing in {"lidar", "all"}:
        poorer["pillar_mask"].zero_()
    if missing == "one camera":
        poorer["images"][:, 2] = 0
    heatmap, offset = said(model, poorer)
    assert torch.isfinite(heatmap).all()
    assert torch.isfinite(offset).all()
    assert not torch.allclose(heatmap, said(model, inputs)[0], atol=0.1)


def test_a_cell_reads_the_picture_where_its_centre_is() -> None:
    """The lift of a picture of its own columns tells in which column each cell is seen."""
    camera = Camera(x=0.1, y=0.2, z=1.5, yaw=0.4, pitch=0.2, focal=28.0, rows=32, columns=64)
    lift = CameraLift(Grid(size=16, reach=8.0), (0.5,), (32, 64))
    column = torch.arange(64, dtype=torch.float32).expand(1, 1, 1, 32, 64) + 0.5
    lifted = lift(column, *lift.project(torch.from_numpy(camera.projection())[None, None]))[0, 0]
    told = 0
    for row, place in np.ndindex(16, 16):
        across, down, depth = camera.projection() @ [row - 7.5, place - 7.5, 0.5, 1.0]
        if depth <= 0.1 or not (0 < across / depth < 64 and 0 < down / depth < 32):
            assert lifted[row, place] == 0
        elif 1 < across / depth < 63 and 1 < down / depth < 31:
            told += 1
            assert float(lifted[row, place]) == pytest.approx(across / depth, abs=1e-2)
    assert told > 30


def test_a_pillar_lands_in_its_cell() -> None:
    encoder = PillarEncoder(Grid(size=4, reach=2.0), features=6, width=5)
    placed = encoder(torch.randn(1, 3, 8, 6), torch.tensor([[2, 13, 6]]), torch.tensor([[1, 1, 0]]))[0]
    filled = placed.abs().sum(dim=0).flatten().nonzero().flatten().tolist()
    assert placed.shape == (5, 4, 4)
    assert set(filled) <= {2, 13}
    assert filled


def test_targets_are_peaks_at_things_and_count_offsets_there_alone() -> None:
    labels = torch.tensor([[[1.0, 5.3, 7.8], [-1.0, -1.0, -1.0]]])
    heatmap, away, own = targets(labels)
    assert own.nonzero().tolist() == [[0, 0, 5, 8]]
    assert heatmap[0, 1, 5, 8] == 1
    assert not heatmap[0, [0, 2]].any()
    torch.testing.assert_close(away[0, :, 5, 8], torch.tensor([0.3, -0.2]))
    metric = CenterAp()
    metric.add(heatmap.numpy(), labels.numpy())
    assert metric.value == 1.0


def test_the_loss_is_least_at_the_truth() -> None:
    batch = surround.collate(list(surround.samples("validation", 2)))

    class Known(Bev):
        scale = 1.0

        def detect(self, *_: object) -> tuple[torch.Tensor, torch.Tensor]:
            heatmap, away, _ = targets(torch.from_numpy(batch["label.heatmap"]))
            return self.scale * torch.logit(heatmap.clamp(1e-4, 1 - 1e-4)), away

    right, wrong = Known(), Known()
    wrong.scale = -1.0
    assert float(bev_loss(right, batch)) < 0.1
    assert float(bev_loss(wrong, batch)) > 5


def test_the_factory_gives_module_inputs_axes_and_extra() -> None:
    module, example, axes, extra = factory()
    assert not module.training
    pillars = example["cells"].shape[1]
    assert {name: tuple(value.shape) for name, value in example.items()} == {
        "images": (2, 4, 3, 32, 64),
        "projection": (2, 4, 3, 4),
        "pillars": (2, pillars, 8, 6),
        "cells": (2, pillars),
        "pillar_mask": (2, pillars),
    }
    assert axes["cells"] == {0: "batch", 1: "pillars"}
    assert extra["outputs"] == ["heatmap", "offset"]
    assert extra["modalities"] == {"cameras": ["images"], "lidar": ["pillars", "cells", "pillar_mask"]}
    assert set(next(iter(extra["samples"](count=1)))) == {*example, "label.heatmap"}


def test_the_checkpoint_scores_what_its_card_says(model: Bev) -> None:
    card = json.loads(CARD.read_text(encoding="utf-8"))
    metric = card["metric"]
    assert CHECKPOINT.stat().st_size < 4_000_000
    assert card["test"][metric] > 0.9
    assert card["chance"]["random heatmap"] < 0.1
    for blind, said in (("", card["test"]), ("cameras", card["test_blinded"]["cameras"])):
        assert bev_scores(model, "test", 200, blind)[metric] == pytest.approx(said[metric], abs=0.03)
    blinded = card["test_blinded"]
    assert max(blinded["cameras"][metric], blinded["lidar"][metric]) < card["test"][metric] - 0.05
