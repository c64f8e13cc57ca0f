"""The blocks of retrieval, audio-text, recommend and medical, which users import for their own models."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmtrt.zoo.blocks.audio import AudioEncoder
from mmtrt.zoo.blocks.heads import joint_loss
from mmtrt.zoo.blocks.pooling import EmbeddingPool, ProductFusion, masked_mean
from mmtrt.zoo.blocks.tables import TableEncoder
from mmtrt.zoo.blocks.towers import PooledProjection, contrastive_loss
from mmtrt.zoo.data.events import Sample
from mmtrt.zoo.training.scoring import commonest, scored, to_inputs

LENGTHS = pytest.mark.parametrize("lengths", [[3], [0], [6, 1], [0, 2, 5, 0], [4, 0, 6]])


def mask_of(lengths: list[int], width: int = 6) -> Tensor:
    return (torch.arange(width) < torch.tensor(lengths)[:, None]).long()


@LENGTHS
def test_a_masked_mean_is_that_of_the_kept_and_0_of_none(lengths: list[int]) -> None:
    tokens = torch.randn(len(lengths), 6, 3)
    for row, (length, mean) in enumerate(zip(lengths, masked_mean(tokens, mask_of(lengths)), strict=True)):
        torch.testing.assert_close(mean, tokens[row, :length].mean(0) if length else torch.zeros(3))


@LENGTHS
def test_an_embedding_pool_is_an_embedding_bag(lengths: list[int]) -> None:
    pool = EmbeddingPool(9, 4)
    ids = torch.randint(0, 9, (len(lengths), 6))
    bag = nn.EmbeddingBag.from_pretrained(pool.items.weight.detach(), mode="mean")
    flat = torch.cat([ids[row, :length] for row, length in enumerate(lengths)])
    offsets = torch.tensor([0, *np.cumsum(lengths[:-1])])
    torch.testing.assert_close(pool(ids, mask_of(lengths)).detach(), bag(flat, offsets))


def test_product_fusion_holds_each_vector_and_each_pairs_product() -> None:
    a, b, c = (torch.randn(2, 3) for _ in range(3))
    torch.testing.assert_close(ProductFusion()(a, b, c), torch.cat([a, b, c, a * b, a * c, b * c], dim=1))


def test_missing_values_of_a_table_may_be_anything() -> None:
    torch.manual_seed(0)
    encode = TableEncoder(4, 8, 5)
    values, mask = torch.randn(3, 4), torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]])
    told = encode(values, mask)
    for anything in (math.nan, math.inf, 1e30, 0.0):
        torch.testing.assert_close(encode(torch.where(mask > 0, values, anything), mask), told)
    assert not torch.allclose(encode(torch.zeros(1, 4), torch.ones(1, 4)), encode(torch.zeros(1, 4), torch.zeros(1, 4)))


@pytest.mark.parametrize("frames", [1, 2, 5, 8, 13])
def test_frames_of_padding_change_no_token(frames: int) -> None:
    torch.manual_seed(0)
    encode = AudioEncoder(8, 16, (4, 6), 10)
    for norm in (m for m in encode.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.bias)
    encode.eval()
    audio, mask = torch.randn(2, 1, 8, frames), torch.ones(2, frames)
    with torch.inference_mode():
        tokens, kept = encode(audio, mask)
        longer = torch.cat([audio, torch.randn(2, 1, 8, 16 - frames)], dim=3)
        padded, kept_then = encode(longer, nn.functional.pad(mask, (0, 16 - frames)))
    count = math.ceil(frames / 4)
    assert tokens.shape == (2, count, 10)
    assert kept.all()
    assert kept_then.sum(1).tolist() == [count, count]
    torch.testing.assert_close(tokens, padded[:, :count])


def test_a_tower_gives_unit_vectors_even_of_nothing() -> None:
    torch.manual_seed(0)
    tower, tokens = PooledProjection(8, 16, 4), torch.randn(3, 6, 8)
    vectors = tower(tokens, mask_of([6, 2, 0]))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(tower(torch.randn(3, 6, 8), mask_of([6, 2, 0]))[2], vectors[2])
    torch.testing.assert_close(tower(tokens), tower(tokens, mask_of([6, 6, 6])))


def test_the_contrastive_loss_is_cross_entropy_both_ways() -> None:
    one, other = (nn.functional.normalize(torch.randn(5, 8)) for _ in range(2))
    logits = (10.0 * one @ other.T).softmax(1).diag().log(), (10.0 * other @ one.T).softmax(1).diag().log()
    wanted = -(logits[0].mean() + logits[1].mean()) / 2
    torch.testing.assert_close(contrastive_loss(one, other, torch.arange(5), torch.tensor(10.0)), wanted)


def test_rows_of_one_identity_are_no_rivals() -> None:
    vectors = nn.functional.normalize(torch.randn(4, 8))
    twins = torch.cat([vectors, vectors])
    identity = torch.arange(4).repeat(2)
    found = contrastive_loss(twins, twins, identity, torch.tensor(100.0))
    assert found < 1e-3
    assert contrastive_loss(twins, twins, torch.arange(8), torch.tensor(100.0)) > 0.6


def test_a_joint_loss_of_two_heads_leaves_out_what_has_no_label() -> None:
    logits, labels = (torch.randn(3, 2), torch.randn(3, 4)), (torch.tensor([1, -1, 0]), torch.tensor([-1, -1, -1]))
    cross = nn.functional.cross_entropy(logits[0][[0, 2]], labels[0][[0, 2]])
    torch.testing.assert_close(joint_loss(logits, labels, (2.0, 1.0)), 2 * cross)


# ----------------------------------------------------------------------------------------------------------- scoring


class Echo(nn.Module):
    """Says what it is told: class by the value of `a`; and how many of `b` are there."""

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return nn.functional.one_hot(a[:, 0], 3).float(), b.sum(1, keepdim=True) - 1.5


def events(count: int = 250) -> list[Sample]:
    return [
        {
            "a": np.array([i % 3]),
            "b": np.ones(1 + i % 2, np.int64),
            "label.x": np.array(i % 3),
            "label.y": np.array(i % 2),
        }
        for i in range(count)
    ]


def test_scores_are_over_all_events_by_output_and_metric() -> None:
    kinds = {"one": ["a"], "two": ["b"]}
    wanted = {"x": ["accuracy"], "y": ["accuracy", "auroc"]}
    for blind, right in (("", (1.0, 1.0, 1.0)), ("one", (84 / 250, 1.0, 1.0)), ("two", (1.0, 0.5, 0.5))):
        found = scored(Echo(), events(), wanted, lengths={"b": 2}, modalities=kinds, blind=blind)
        assert list(found) == ["x accuracy", "y accuracy", "y auroc"]
        assert tuple(found.values()) == pytest.approx(right)


def test_a_blinded_modality_is_0_in_all_of_its_inputs() -> None:
    batch = {"a": np.ones((2, 3), np.int64), "m": np.ones((2, 3), np.int64), "c": np.ones(2, np.float32)}
    given_ = to_inputs(batch, {"one": ["a", "m"], "two": ["c"]}, "one")
    assert not given_["a"].any()
    assert not given_["m"].any()
    assert given_["c"].all()
    assert batch["a"].all(), "the batch itself is as it was"


def test_the_commonest_class_of_all_and_of_each_kind() -> None:
    drawn = [{"label.x": np.array(label)} for label in (0, 1, 0, 1, 0, 2)]
    assert commonest(drawn, "x") == pytest.approx(3 / 6)
    assert commonest(drawn, "x", kinds=2) == pytest.approx(5 / 6)
