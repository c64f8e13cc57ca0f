"""The large VQA models, with a small text encoder: shapes, masks, statistics; and the samples that come with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmtrt.zoo.blocks.bert import BertConfig
from mmtrt.zoo.blocks.resnet import ResNet
from mmtrt.zoo.models import vqa_bert
from mmtrt.zoo.models.vqa_bert import VqaBert, VqaBertConfig, samples

SMALL = BertConfig(words=100, width=32, heads=2, hidden=64, blocks=1)
CONFIGS = {
    "cross": VqaBertConfig(resnet=18, bert=SMALL),
    "attention": VqaBertConfig(resnet=50, bert=SMALL, fusion="attention", heads=("answer", "match", "generate")),
}


@pytest.fixture(params=sorted(CONFIGS))
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> VqaBert:
    monkeypatch.setitem(vqa_bert.CONFIGS, "small", CONFIGS[request.param])
    return vqa_bert.make("small")


def test_heads_have_their_shapes(model: VqaBert) -> None:
    events = list(samples("test", 2, words=100))
    feeds = [torch.from_numpy(np.stack([e[name] for e in events])) for name in ("image", "ids", "mask")]
    with torch.inference_mode():
        told = dict(zip(model.config.heads, model(*feeds), strict=True))
    wanted = {"answer": (2, 3129), "match": (2, 2), "generate": (2, 5, 3129)}
    assert {name: tuple(logits.shape) for name, logits in told.items()} == {n: wanted[n] for n in model.config.heads}


def test_the_same_seed_gives_the_same_model_in_eval_mode(model: VqaBert) -> None:
    again = vqa_bert.make("small").state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())
    assert not any(module.training for module in model.modules())


def test_batch_norm_knows_the_pictures(model: VqaBert) -> None:
    means = [module.running_mean for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert all(mean is not None and mean.abs().max() > 0 for mean in means)


def test_padding_changes_nothing(model: VqaBert) -> None:
    (event,) = samples("test", 1, words=100)
    kept = int(event["mask"].sum())
    image, ids, mask = (torch.from_numpy(event[name])[None] for name in ("image", "ids", "mask"))
    with torch.inference_mode():
        padded, cut = model(image, ids, mask), model(image, ids[:, :kept], mask[:, :kept])
    assert all(torch.allclose(left, right, atol=1e-4) for left, right in zip(padded, cut, strict=True))


def test_splits_differ_and_can_be_made_again() -> None:
    first, again = (list(samples("calibration", 3)) for _ in range(2))
    other = list(samples("test", 3))
    assert all(np.array_equal(a[name], b[name]) for a, b in zip(first, again, strict=True) for name in a)
    assert not any(np.array_equal(a["image"], b["image"]) for a, b in zip(first, other, strict=True))
    assert all(abs(float(s["image"].std()) - 1) < 0.01 for s in first)


def test_an_unknown_resnet_is_refused() -> None:
    with pytest.raises(ValueError, match="34"):
        ResNet(34)
