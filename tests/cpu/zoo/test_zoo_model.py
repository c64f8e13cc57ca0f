from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from mmtrt.errors import InputError
from mmtrt.zoo import TRAINED
from mmtrt.zoo.blocks.encoders import additive_mask
from mmtrt.zoo.blocks.heads import joint_loss
from mmtrt.zoo.data import words
from mmtrt.zoo.data.events import padded, samples, without_text
from mmtrt.zoo.models import vqa_coattention
from mmtrt.zoo.models.vqa_coattention import CHECKPOINT, VqaCoattention, factory, load
from mmtrt.zoo.training import card, vqa
from mmtrt.zoo.training.macs import mac_counts, parameter_counts

CARD = CHECKPOINT.parents[1] / "cards" / "vqa-coattention.json"
CLOSE = {"rtol": 1e-4, "atol": 2e-4}


@pytest.fixture(scope="module")
def model() -> VqaCoattention:
    return load()


def inputs(batch: int, text: int) -> dict[str, torch.Tensor]:
    drawn = [s for s in samples("validation", 6 * batch + 60) if len(s["ids"]) <= text][:batch]
    assert len(drawn) == batch
    rows = [padded(s, text) for s in drawn]
    return {k: torch.from_numpy(np.stack([r[k] for r in rows])) for k in ("image", "ids", "mask")}


@pytest.mark.parametrize(("batch", "text"), [(1, 8), (3, 12), (5, 16)])
def test_logits_have_the_declared_shapes(model: VqaCoattention, batch: int, text: int) -> None:
    with torch.inference_mode():
        answer, match, generate = model(**inputs(batch, text))
    assert answer.shape == (batch, len(words.ANSWERS))
    assert match.shape == (batch, 2)
    assert generate.shape == (batch, words.PHRASE_LENGTH, len(words.PHRASE_WORDS))


def test_a_wholly_masked_row_is_finite_and_leaves_the_others_alone(model: VqaCoattention) -> None:
    feed = inputs(4, 12)
    with torch.inference_mode():
        before = model(**feed)
        feed["mask"][1] = 0
        after = model(**feed)
    for one, two in zip(before, after, strict=True):
        assert torch.isfinite(two).all()
        torch.testing.assert_close(one[[0, 2, 3]], two[[0, 2, 3]], **CLOSE)
        assert not torch.allclose(one[1], two[1], atol=1e-2)


def test_a_missing_text_is_the_same_whatever_its_ids(model: VqaCoattention) -> None:
    sample = without_text(next(iter(samples("validation", 1))))
    image, ids, mask = (torch.from_numpy(sample[k])[None] for k in ("image", "ids", "mask"))
    with torch.inference_mode():
        blank, filled = model(image, ids, mask), model(image, torch.full_like(ids, 7), mask)
    for one, two in zip(blank, filled, strict=True):
        assert torch.isfinite(one).all()
        torch.testing.assert_close(one, two)


def test_padding_changes_nothing(model: VqaCoattention) -> None:
    short = inputs(4, 9)
    long = short | {k: torch.nn.functional.pad(short[k], (0, 7)) for k in ("ids", "mask")}
    with torch.inference_mode():
        for one, two in zip(model(**short), model(**long), strict=True):
            torch.testing.assert_close(one, two, **CLOSE)


def test_a_pair_gets_the_same_logits_alone_and_in_a_batch(model: VqaCoattention) -> None:
    feed = inputs(6, 12)
    with torch.inference_mode():
        together = model(**feed)
        for row in range(6):
            alone = model(**{k: v[row : row + 1] for k, v in feed.items()})
            for one, two in zip(alone, together, strict=True):
                torch.testing.assert_close(one[0], two[row], **CLOSE)


def test_one_encoded_image_serves_several_questions(model: VqaCoattention) -> None:
    feed = inputs(3, 12)
    image = feed["image"][:1]
    with torch.inference_mode():
        tokens = model.encode_image(image).repeat_interleave(3, dim=0)
        shared = model.fuse(tokens, feed["ids"], feed["mask"])
        apart = model(image.repeat(3, 1, 1, 1), feed["ids"], feed["mask"])
    for one, two in zip(shared, apart, strict=True):
        torch.testing.assert_close(one, two, **CLOSE)


def test_the_additive_mask_is_the_lowest_finite_number() -> None:
    mask = additive_mask(torch.tensor([[1, 0], [0, 0]]))
    assert mask.shape == (2, 1, 1, 2)
    assert mask.flatten().tolist() == [0.0, *[torch.finfo(torch.float32).min] * 3]
    assert torch.isfinite(torch.softmax(mask + 5.0, dim=-1)).all()


def test_ignored_labels_carry_no_loss() -> None:
    logits = (torch.randn(4, 5), torch.randn(4, 2), torch.randn(4, 3, 6))
    labels = (torch.tensor([1, -1, 2, -1]), torch.tensor([1, 0, 1, 0]), torch.full((4, 3), -1))
    whole = joint_loss(logits, labels)
    moved = tuple(x.clone() for x in logits)
    moved[0][[1, 3]] += torch.randn(2, 5)
    moved[2].copy_(torch.randn(4, 3, 6))
    torch.testing.assert_close(joint_loss((moved[0], moved[1], moved[2]), labels), whole)
    cross = torch.nn.functional.cross_entropy
    wanted = cross(logits[0][[0, 2]], torch.tensor([1, 2])) + 0.5 * cross(logits[1], labels[1])
    torch.testing.assert_close(whole, wanted)


def test_the_model_is_as_small_and_as_quantizable_as_promised(model: VqaCoattention) -> None:
    parameters = parameter_counts(model)
    macs = mac_counts(model, inputs(1, 16))
    assert parameters["all"] <= 1_500_000  # 6 MB in float32
    assert parameters["conv_linear_weights"] >= 0.95 * parameters["all"]
    assert macs["attention"] < 0.04 * sum(macs.values())
    assert CHECKPOINT.stat().st_size < 5_600_000


def test_mac_counts_of_a_known_module() -> None:
    conv = torch.nn.Conv2d(3, 4, 3, padding=1)
    assert mac_counts(conv, {"input": torch.zeros(2, 3, 8, 8)})["conv"] == 2 * 4 * 64 * 27
    linear = torch.nn.Linear(6, 5)
    assert mac_counts(linear, {"input": torch.zeros(7, 6)})["linear"] == 7 * 6 * 5


def test_the_factory_gives_module_inputs_axes_and_extra() -> None:
    module, example, axes, extra = factory()
    assert not module.training
    assert {k: (tuple(v.shape), v.dtype) for k, v in example.items()} == {
        "image": ((2, 3, 64, 64), torch.float32),
        "ids": ((2, 12), torch.int64),
        "mask": ((2, 12), torch.int64),
    }
    text = {0: "batch", 1: "text"}
    assert axes == {"image": {0: "batch"}, "ids": text, "mask": text}
    assert extra["modalities"] == {"image": ["image"], "text": ["ids", "mask"]}
    assert extra["outputs"] == ["answer", "match", "generate"]
    assert extra["ranges"] == {"batch": [1, 8, 32], "text": [4, 12, 16]}
    assert {"image", "ids", "mask"} < set(next(iter(extra["samples"](count=1))))


def test_the_checkpoint_answers(model: VqaCoattention) -> None:
    scores = vqa.scores(model, "test", 375)
    assert scores["answer accuracy"] >= 0.93
    assert scores["generated phrase exactly right"] >= 0.9
    assert scores["match accuracy"] >= 0.9
    assert scores["match F1, unmatched pairs"] >= 0.8


@pytest.mark.parametrize("blind", vqa.MODALITIES)
def test_the_checkpoint_needs_both_modalities(model: VqaCoattention, blind: str) -> None:
    assert vqa.scores(model, "test", 375, blind)["answer accuracy"] < 0.6


def test_an_untrained_model_knows_nothing() -> None:
    torch.manual_seed(0)
    assert vqa.scores(VqaCoattention().eval(), "test", 100)["answer accuracy"] < 0.4


def test_the_card_tells_of_this_checkpoint(model: VqaCoattention) -> None:
    written = json.loads(CARD.read_text(encoding="utf-8"))
    digest = card.weights_digest(model.state_dict())
    with safe_open(CHECKPOINT, "pt") as file:
        assert file.metadata()["weights_sha256"] == digest
    assert written["checkpoint_sha256"] == digest
    assert written["model"]["parameters"] == parameter_counts(model)
    assert written["test"]["matched"] == 4000
    # Written by an earlier version of the card, whose sentences differ: its figures are the JSON's.
    told = CARD.with_suffix(".md").read_text(encoding="utf-8")
    shares = [*written["test"]["answer_accuracy_by_kind"].values(), *written["majority"].values()]
    shares += [written["test"][k] for k in ("answer_accuracy", "match_accuracy", "match_f1", "generate_exact")]
    shares += [run["answer_accuracy"] for run in written["test_blinded"].values()]
    shares += [run["test"]["answer_accuracy"] for run in written["trained_blind"].values()]
    assert all(f"{share:.2%}" in told for share in shares)
    assert digest in told


def test_a_checkpoint_in_half_precision_is_what_the_model_then_holds(tmp_path: Path) -> None:
    torch.manual_seed(1)
    made = VqaCoattention()
    before = {k: v.clone() for k, v in made.state_dict().items()}
    digest = card.write_checkpoint(made, tmp_path / "half.safetensors", {}, torch.float16)
    card.write_checkpoint(made, tmp_path / "whole.safetensors", {})
    assert (tmp_path / "half.safetensors").stat().st_size < 0.51 * (tmp_path / "whole.safetensors").stat().st_size
    loaded = load(tmp_path / "half.safetensors").state_dict()
    assert card.weights_digest(loaded) == digest
    for name, value in made.state_dict().items():
        assert loaded[name].dtype == value.dtype
        assert torch.equal(loaded[name], value)
        assert torch.equal(loaded[name], before[name].half().float() if value.is_floating_point() else before[name])


def test_checkpoints_are_small() -> None:
    sizes = {path.stem: path.stat().st_size for path in CHECKPOINT.parent.glob("*.safetensors")}
    assert len(sizes) == len(TRAINED)
    assert max(sizes.values()) <= 4_000_000, sizes


def test_a_missing_checkpoint_names_the_training_command(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"python -m mmtrt\.zoo\.train vqa-coattention"):
        load(tmp_path / "none.safetensors")


def test_another_models_checkpoint_is_refused(tmp_path: Path) -> None:
    other = vqa_coattention.VqaCoattention(vqa_coattention.VqaConfig(fusion_blocks=1))
    card.write_checkpoint(other, tmp_path / "other.safetensors", {})
    with pytest.raises(InputError, match="does not fit"):
        load(tmp_path / "other.safetensors")
