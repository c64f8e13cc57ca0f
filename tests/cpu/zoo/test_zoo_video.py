from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mmtrt.zoo.blocks.temporal import FrameEncoder, ReadingEncoder, TemporalFusion
from mmtrt.zoo.checkpoints import checkpoint_path
from mmtrt.zoo.data import driving
from mmtrt.zoo.data.batches import BatchSize
from mmtrt.zoo.models.video import (
    HEADS,
    FrameReader,
    Video,
    factory,
    frame_loss,
    frames_read,
    load,
    to_inputs,
    video_scores,
)

CHECKPOINT = checkpoint_path("video")
CARD = CHECKPOINT.parents[1] / "cards" / "video.json"
CLOSE = {"rtol": 1e-4, "atol": 2e-4}

Inputs = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def model() -> Video:
    return load()


def inputs(count: int, steps: int = 8) -> Inputs:
    drawn = [s for s in driving.samples("validation", 6 * count + 40) if len(s["frame_mask"]) <= steps][:count]
    assert len(drawn) == count
    return to_inputs(driving.collate([driving.padded(s, steps) for s in drawn]))


def said(model: Video, feed: Inputs) -> tuple[torch.Tensor, ...]:
    with torch.inference_mode():
        return tuple(model(**feed))


@pytest.mark.parametrize(("count", "steps"), [(1, 4), (3, 8), (2, 12)])
def test_logits_have_the_declared_shapes(model: Video, count: int, steps: int) -> None:
    arrival, motion = said(model, inputs(count, steps))
    assert arrival.shape == (count, 4)
    assert motion.shape == (count, 3)


def test_padding_changes_nothing(model: Video) -> None:
    short = inputs(4, 8)
    long = {name: torch.cat([torch.zeros_like(value[:, :4]), value], dim=1) for name, value in short.items()}
    # What lies under a mask of 0 has no say.
    long["frames"][:, :4] = torch.randn(4, 4, 3, driving.SIZE, driving.SIZE)
    long["sensors"][:, :4] = torch.randn(4, 4, 3)
    for one, two in zip(said(model, short), said(model, long), strict=True):
        torch.testing.assert_close(one, two, **CLOSE)


def test_an_event_says_the_same_alone(model: Video) -> None:
    feed = inputs(4)
    together = said(model, feed)
    for row in range(4):
        alone = said(model, {name: value[row : row + 1] for name, value in feed.items()})
        for one, two in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], two[row], **CLOSE)


@pytest.mark.parametrize("missing", ["frames", "sensors", "both"])
def test_what_is_missing_leaves_it_finite_and_the_others_alone(model: Video, missing: str) -> None:
    feed = inputs(4)
    poorer = {name: value.clone() for name, value in feed.items()}
    for name in ("frame_mask", "sensor_mask"):
        if missing == "both" or name.startswith(missing.removesuffix("s")):
            poorer[name][1] = 0
    for one, two in zip(said(model, feed), said(model, poorer), strict=True):
        assert torch.isfinite(two).all()
        torch.testing.assert_close(one[[0, 2, 3]], two[[0, 2, 3]], **CLOSE)
        assert not torch.allclose(one[1], two[1], atol=1e-2)


def test_a_reading_that_is_missing_has_no_say() -> None:
    encoder = ReadingEncoder(3, 8)
    read, mask = torch.randn(1, 2, 3), torch.tensor([[[1, 0, 1], [0, 0, 0]]])
    other = torch.where(mask > 0, read, 99.0)
    torch.testing.assert_close(encoder(read, mask), encoder(other, mask))


def test_the_order_of_steps_matters_and_now_is_the_last() -> None:
    fusion = TemporalFusion(length=6, width=16, heads=2, hidden=16, blocks=2).eval()
    tokens, mask = torch.randn(1, 5, 16), torch.ones(1, 5, dtype=torch.int64)
    now = fusion(tokens, mask)
    assert now.shape == (1, 16)
    assert not torch.allclose(now, fusion(tokens[:, [1, 0, 2, 3, 4]], mask), atol=1e-3)


def test_a_frame_encoder_learns_to_find_the_other() -> None:
    torch.manual_seed(0)
    reader = FrameReader(FrameEncoder(driving.SIZE, (4, 8), 16), 16)
    batch = driving.frame_batch(0, 0, BatchSize(scenes=24, questions=1))
    optimizer = torch.optim.Adam(reader.parameters(), lr=1e-2)
    losses = []
    for _ in range(25):
        loss = frame_loss(reader, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.4 * losses[0]
    assert 0 <= frames_read(reader.eval(), 10) <= 1


def test_the_factory_gives_module_inputs_axes_and_extra() -> None:
    module, example, axes, extra = factory()
    assert not module.training
    assert {name: tuple(value.shape) for name, value in example.items()} == {
        "frames": (2, 8, 3, 32, 32),
        "frame_mask": (2, 8),
        "sensors": (2, 8, 3),
        "sensor_mask": (2, 8, 3),
    }
    assert all(named == {0: "batch", 1: "steps"} for named in axes.values())
    assert extra["outputs"] == list(HEADS)
    assert set(next(iter(extra["samples"](count=1)))) == {*example, "label.arrival", "label.motion"}


def test_the_checkpoint_scores_what_its_card_says(model: Video) -> None:
    card = json.loads(CARD.read_text(encoding="utf-8"))
    metric = card["metric"]
    assert CHECKPOINT.stat().st_size < 4_000_000
    assert card["test"][metric] > 0.7
    assert card["chance"]["commonest pair of classes"] < 0.2
    for blind in ("", "frames", "sensors"):
        told = card["test_blinded"][blind] if blind else card["test"]
        scores = video_scores(model, "test", 300, blind)
        assert scores[metric] == pytest.approx(told[metric], abs=0.06)
        assert np.isfinite(list(scores.values())).all()
    assert max(one[metric] for one in card["test_blinded"].values()) < card["test"][metric] - 0.2
