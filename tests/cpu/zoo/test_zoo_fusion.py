"""The fusion blocks that users import, and the trained models made of them."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmtrt.zoo import REGISTRY, TRAINED
from mmtrt.zoo.blocks.encoders import additive_mask
from mmtrt.zoo.blocks.fusion import CoAttentionFusion, EarlyFusion, GuidedPooling, LateFusion, ModalityAttention
from mmtrt.zoo.checkpoints import checkpoint_path, weights_package
from mmtrt.zoo.data import records
from mmtrt.zoo.training import card
from mmtrt.zoo.training.lesson import SEEING, find_lesson
from mmtrt.zoo.training.macs import parameter_counts

NAMES = ("vqa-early", "vqa-late", "vqa-attention", "vqa-knowledge", "dialogue")
EVENTS = 200
CLOSE = {"rtol": 1e-4, "atol": 2e-4}


def made(name: str) -> tuple[torch.nn.Module, dict[str, Tensor], dict[str, dict[int, str]], dict[str, Any]]:
    module, _, function = REGISTRY[name].partition(":")
    return getattr(__import__(module, fromlist=[function]), function)()


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def parts(name: str) -> tuple[torch.nn.Module, dict[str, Tensor], dict[str, dict[int, str]], dict[str, Any]]:
    return made(name)


def said(model: torch.nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
    with torch.inference_mode():
        logits = model(**inputs)
    return logits if isinstance(logits, tuple) else (logits,)


def texts(inputs: dict[str, Tensor]) -> list[tuple[str, str]]:
    """Ids with their mask."""
    return [(n, n.replace("ids", "mask")) for n in inputs if n.endswith("ids")]


def test_the_factory_tells_what_it_gives(parts: Any) -> None:
    model, inputs, axes, extra = parts
    assert not any(m.training for m in model.modules())
    assert axes.keys() == inputs.keys()
    assert sorted(n for names in extra["modalities"].values() for n in names) == sorted(inputs)
    assert {size for of_input in axes.values() for size in of_input.values()} == set(extra["ranges"])
    logits = said(model, inputs)
    assert len(logits) == len(extra["outputs"])
    assert all(len(one) == 2 and torch.isfinite(one).all() for one in logits)
    sample = next(iter(extra["samples"](count=1)))
    assert set(inputs) | {f"label.{o}" for o in extra["outputs"]} == set(sample)
    assert all(sample[n].dtype == v.numpy().dtype for n, v in inputs.items())


def test_a_missing_modality_is_finite_and_the_same_whatever_was_there(parts: Any) -> None:
    model, inputs, _, extra = parts
    for names in extra["modalities"].values():
        gone = inputs | {n: torch.zeros_like(inputs[n]) for n in names}
        blank = said(model, gone)
        assert all(torch.isfinite(one).all() for one in blank)
        masks = [n for n in names if n.endswith("mask") or n == "known"]
        if masks:
            other = {n: inputs[n].flip(0) for n in names if n not in masks}
            for one, two in zip(blank, said(model, gone | other), strict=True):
                torch.testing.assert_close(one, two, **CLOSE)


def test_padding_changes_nothing(parts: Any) -> None:
    model, inputs, _, extra = parts
    shortest = max(4, *(int(inputs[mask].sum(1).max()) for _, mask in texts(inputs)))
    short = inputs | {n: inputs[n][:, :shortest] for pair in texts(inputs) for n in pair}
    long = inputs | {n: torch.nn.functional.pad(v, (0, 16 - shortest)) for pair in texts(inputs) for n in pair
                     for v in (short[n],)}  # fmt: skip
    assert extra["ranges"]["text"][2] == 16
    for one, two in zip(said(model, short), said(model, long), strict=True):
        torch.testing.assert_close(one, two, **CLOSE)


def test_an_event_gets_the_same_logits_alone_and_in_a_batch(parts: Any) -> None:
    model, inputs, *_ = parts
    together = said(model, inputs)
    for row in range(2):
        for one, two in zip(said(model, {k: v[row : row + 1] for k, v in inputs.items()}), together, strict=True):
            torch.testing.assert_close(one[0], two[row], **CLOSE)


def test_the_checkpoint_scores_as_the_card_says(name: str, parts: Any) -> None:
    lesson, written = find_lesson(name), json.loads((weights_package() / "cards" / f"{name}.json").read_text("utf-8"))
    blinds = (SEEING, lesson.modalities[-1])
    told = (written["test"], written["test_blinded"][lesson.modalities[-1]])
    for blind, wanted in zip(blinds, told, strict=True):
        share = wanted[lesson.metric]
        # Four standard deviations of a share over the matched events of these.
        margin = 4 * math.sqrt(max(share * (1 - share), 0.01) / (0.8 * EVENTS))
        found = lesson.scores(parts[0], "test", EVENTS, blind)[lesson.metric]
        assert abs(found - share) < margin, blind


def test_the_card_tells_of_this_checkpoint(name: str, parts: Any) -> None:
    path = weights_package() / "cards" / f"{name}.json"
    written, lesson = json.loads(path.read_text(encoding="utf-8")), find_lesson(name)
    assert written["schema"] == card.SCHEMA
    assert written["checkpoint_sha256"] == card.weights_digest(parts[0].state_dict())
    assert written["model"]["parameters"] == parameter_counts(parts[0])
    assert path.with_suffix(".md").read_text(encoding="utf-8") == card.markdown(written)
    assert set(written["test_blinded"]) == set(lesson.modalities)
    assert checkpoint_path(name).stat().st_size <= 4_000_000


def test_each_trained_model_has_a_lesson_of_its_name() -> None:
    assert all(find_lesson(name).name == name for name in TRAINED)


def random_mask(keep: list[int], length: int) -> Tensor:
    return additive_mask((torch.arange(length) < torch.tensor(keep)[:, None]).long())


def test_early_fusion_keeps_shapes_and_sees_no_masked_token() -> None:
    torch.manual_seed(0)
    fuse = EarlyFusion(16, 2, 24, blocks=2, modalities=3).eval()
    tokens = [torch.randn(2, length, 16) for length in (5, 4, 3)]
    masks = [random_mask([5, 5], 5), random_mask([2, 0], 4), random_mask([3, 3], 3)]
    with torch.inference_mode():
        first = fuse(tokens, masks)
        tokens[1] = torch.cat([tokens[1][:, :2], torch.randn(2, 2, 16)], dim=1)
        tokens[1][1] = torch.randn(4, 16)
        second = fuse(tokens, masks)
    assert [tuple(one.shape) for one in first] == [(2, 5, 16), (2, 4, 16), (2, 3, 16)]
    torch.testing.assert_close(first[0], second[0])
    torch.testing.assert_close(first[1][0, :2], second[1][0, :2])
    torch.testing.assert_close(first[2], second[2])


def test_early_fusion_tells_modalities_apart() -> None:
    torch.manual_seed(0)
    fuse = EarlyFusion(16, 2, 24, blocks=1, modalities=2).eval()
    one, other = torch.randn(1, 3, 16), torch.randn(1, 3, 16)
    masks = [random_mask([3], 3)] * 2
    with torch.inference_mode():
        assert not torch.allclose(fuse((one, other), masks)[0], fuse((other, one), masks)[1], atol=1e-3)


def test_late_fusion_is_a_weighted_sum_whose_weights_sum_to_one() -> None:
    fuse, predictions = LateFusion(3), torch.randn(4, 3, 7)
    torch.testing.assert_close(fuse(predictions), predictions.mean(dim=1))
    with torch.no_grad():
        fuse.score.copy_(torch.tensor([0.0, math.log(2), math.log(5)]))
    weights = torch.tensor([1, 2, 5]) / 8
    torch.testing.assert_close(fuse(predictions), (weights[:, None] * predictions).sum(1))


def test_modality_attention_lies_between_its_modalities() -> None:
    torch.manual_seed(0)
    vectors = torch.randn(6, 2, 8)
    fused = ModalityAttention(8)(vectors)
    share = (fused - vectors[:, 1]) / (vectors[:, 0] - vectors[:, 1])
    assert ((share > 0) & (share < 1)).all()
    torch.testing.assert_close(share, share[:, :1].expand_as(share))
    assert not torch.allclose(share[0], share[1])


def test_guided_pooling_keeps_counts_where_attention_does_not() -> None:
    torch.manual_seed(0)
    pool = GuidedPooling(16, 2).eval()
    tokens, guide = torch.randn(1, 6, 16), torch.randn(1, 16)
    with torch.inference_mode():
        once, twice = pool(tokens, guide), pool(tokens.repeat(1, 2, 1), guide)
        elsewhere = pool(tokens, torch.randn(1, 16))
    torch.testing.assert_close(once[:, 0], twice[:, 0])
    torch.testing.assert_close(once[:, 1] * math.sqrt(2), twice[:, 1])
    assert not torch.allclose(once, elsewhere, atol=1e-3)


def test_co_attention_reads_one_vector() -> None:
    fuse = CoAttentionFusion(16, 2, 24, blocks=1).eval()
    with torch.inference_mode():
        fused = fuse(torch.randn(2, 9, 16), torch.randn(2, 4, 16), random_mask([4, 2], 4))
    assert fused.shape == (2, 64)


def test_without_a_record_the_model_says_that_it_does_not_know() -> None:
    model, *_ = made("vqa-knowledge")
    asked = [e for e in (records.event("test", i) for i in range(70)) if e.question.kind in records.KNOWING]
    batch = records.collate(asked)
    inputs = {n: torch.from_numpy(batch[n]) for n in ("ids", "mask", "knowledge", "known")}
    inputs["image"] = torch.from_numpy(np.stack([records.to_sample(e)["image"] for e in asked]))
    inputs |= {n: torch.zeros_like(inputs[n]) for n in ("knowledge", "known")}
    (logits,) = said(model, inputs)
    unknown = records.ANSWERS.index(records.UNKNOWN)
    assert (logits.argmax(-1) == unknown).float().mean() > 0.9


def test_samples_of_the_new_families_stack() -> None:
    for name in ("vqa-knowledge", "dialogue"):
        lesson = find_lesson(name)
        batch = lesson.batch(0, 3, lesson.schedule.size)
        assert len(batch["answer"]) == lesson.schedule.size.scenes * lesson.schedule.size.questions
        assert (batch["answer"] >= 0).all()
        assert np.isfinite(batch.get("knowledge", np.zeros(1))).all()
