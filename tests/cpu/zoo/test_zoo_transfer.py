"""Starting from another zoo model's parts: what is taken, what is kept, and what is refused."""

from __future__ import annotations

import pytest
import torch

from mmtrt.errors import ModelError
from mmtrt.zoo.checkpoints import borrow
from mmtrt.zoo.data import words
from mmtrt.zoo.data.batches import BatchSize
from mmtrt.zoo.models import vqa_coattention
from mmtrt.zoo.models.dialogue import DialogueModel
from mmtrt.zoo.models.vqa import VqaConfig, from_coattention
from mmtrt.zoo.models.vqa_late import LESSON, VqaLate


def test_both_encoders_are_the_other_models_and_the_frozen_one_stays_so() -> None:
    parent = vqa_coattention.load()
    model = VqaLate()
    assert from_coattention(model) == (
        "Starts from vqa-coattention: image encoder, text encoder. The image encoder stays frozen, all else learns."
    )
    model.train()
    LESSON.loss(model, LESSON.batch(0, 0, BatchSize(scenes=2, questions=2)), "").backward()
    assert all(p.grad is None for p in model.image_encoder.parameters())
    assert model.text_encoder.words.weight.grad is not None
    assert model.heads.image.training
    for part in ("image_encoder", "text_encoder"):
        theirs = parent.get_submodule(part).state_dict()
        assert all(torch.equal(v, theirs[k]) for k, v in model.get_submodule(part).state_dict().items())


def test_a_larger_vocabulary_keeps_its_own_further_words() -> None:
    torch.manual_seed(0)
    model = DialogueModel()
    before = model.text_encoder.words.weight.detach().clone()
    borrow(model, "vqa-early", ("text_encoder", "fusion"))
    known = len(words.QUESTION_WORDS)
    assert len(before) > known
    assert not torch.equal(model.text_encoder.words.weight[:known], before[:known])
    assert torch.equal(model.text_encoder.words.weight[known:], before[known:])


def test_a_part_of_another_size_is_refused() -> None:
    with pytest.raises(ModelError, match=r"text_encoder of vqa-coattention does not fit VqaLate"):
        borrow(VqaLate(VqaConfig(width=64)), "vqa-coattention", ("text_encoder",))


def test_a_model_without_a_checkpoint_is_refused() -> None:
    with pytest.raises(ModelError, match=r"python -m mmtrt\.zoo\.train vqa-none"):
        borrow(VqaLate(), "vqa-none", ("text_encoder",))
