"""Weights of torchvision's ResNet and of Hugging Face's BERT, by a key map: the outputs are those of the original."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig as TheirConfig
from transformers import BertForPreTraining, BertModel

from mmtrt.errors import ModelError
from mmtrt.zoo.blocks.bert import Bert, BertConfig
from mmtrt.zoo.blocks.encoders import additive_mask
from mmtrt.zoo.blocks.resnet import ResNet
from mmtrt.zoo.models.vqa_bert import VqaBert, VqaBertConfig
from mmtrt.zoo.weights import load_pretrained

SIZES = {"words": 50, "positions": 24, "width": 32, "heads": 4, "hidden": 48, "blocks": 2}
THEIRS = TheirConfig(
    vocab_size=50,
    max_position_embeddings=24,
    hidden_size=32,
    num_attention_heads=4,
    intermediate_size=48,
    num_hidden_layers=2,
    attn_implementation="eager",
)


def random_weights(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """No weight keeps the value it begins with, so that none can be left out unseen."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) * (1.0 if "running_var" in name else 0.4) + 0.05)
    return module.eval()


@pytest.fixture(scope="module")
def bert() -> BertModel:
    return random_weights(BertModel(THEIRS))


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ResNet-18 as torchvision saves it: the names are its, and there is a classifier."""
    state = random_weights(ResNet(18)).state_dict()
    assert {"conv1.weight", "bn1.running_mean", "layer2.0.downsample.1.weight", "layer4.1.conv2.weight"} < set(state)
    path = tmp_path_factory.mktemp("resnet") / "resnet18.pth"
    torch.save(state | {"fc.weight": torch.ones(1000, 512), "fc.bias": torch.ones(1000)}, path)
    return path


@pytest.fixture
def model() -> VqaBert:
    torch.manual_seed(1)
    return VqaBert(VqaBertConfig(resnet=18, bert=BertConfig(**SIZES)))


def assert_speaks_as(text_encoder: Bert, bert: BertModel) -> None:
    ids = torch.randint(1, 50, (3, 9), generator=torch.Generator().manual_seed(2))
    mask = (torch.arange(9) < torch.tensor([[9], [6], [2]])).long()
    with torch.inference_mode():
        wanted = bert(input_ids=ids, attention_mask=mask).last_hidden_state
        said = text_encoder(ids, additive_mask(mask))
    torch.testing.assert_close(said[mask == 1], wanted[mask == 1], rtol=1e-5, atol=1e-5)


def test_bert_says_what_transformers_bert_says(model: VqaBert, bert: BertModel, tmp_path: Path) -> None:
    bert.save_pretrained(tmp_path)
    assert load_pretrained(model, text=tmp_path / "model.safetensors") is model
    assert_speaks_as(model.text_encoder, bert)


def test_the_names_of_the_pretraining_model_are_known_too(model: VqaBert, tmp_path: Path) -> None:
    whole = random_weights(BertForPreTraining(THEIRS), seed=3)
    old = {k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
           for k, v in whole.state_dict().items()}  # fmt: skip
    assert any(k.startswith("cls.") for k in old)
    assert any(k.startswith("bert.pooler.") for k in old)
    torch.save(old, tmp_path / "bert.pt")
    load_pretrained(model, text=tmp_path / "bert.pt")
    assert_speaks_as(model.text_encoder, whole.bert)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}])
def test_resnet_takes_torchvisions_names(model: VqaBert, resnet_file: Path, tmp_path: Path, wrap: object) -> None:
    state = torch.load(resnet_file, weights_only=True)
    del state["bn1.num_batches_tracked"]  # as files of old versions have it
    torch.save(wrap(state), tmp_path / "resnet18.pt")
    load_pretrained(model, image=tmp_path / "resnet18.pt")
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        torch.testing.assert_close(model.image_encoder(image), random_weights(ResNet(18))(image))


def test_keys_that_do_not_match_are_named_and_nothing_is_loaded(
    model: VqaBert, bert: BertModel, resnet_file: Path, tmp_path: Path
) -> None:
    state = {k: v.clone() for k, v in bert.state_dict().items()}
    state["encoder.layer.7.output.dense.weight"] = torch.ones(2)
    state["encoder.layer.1.crossattention.self.key.weight"] = torch.ones(2)
    state["embeddings.word_embeddings.weight"] = torch.ones(51, 32)
    del state["encoder.layer.0.intermediate.dense.bias"]
    save_file(state, tmp_path / "other.safetensors")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ModelError) as told:
        load_pretrained(model, image=resnet_file, text=tmp_path / "other.safetensors")
    for key in (
        *("left out: blocks.0.expand.bias;", "blocks.7.contract.weight"),
        *("encoder.layer.1.crossattention.self.key.weight", "word_embeddings.weight (51, 32) for (50, 32)"),
    ):
        assert key in str(told.value)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_another_depth_is_refused(model: VqaBert, tmp_path: Path) -> None:
    torch.save(ResNet(50).state_dict(), tmp_path / "resnet50.pth")
    with pytest.raises(ModelError, match=r"not of this encoder: .*conv3\.weight.* and \d+ more"):
        load_pretrained(model, image=tmp_path / "resnet50.pth")


@pytest.mark.parametrize(("name", "content"), [("a.safetensors", b"no"), ("a.pt", b"no"), ("a.pt", None)])
def test_a_file_without_weights_is_refused(model: VqaBert, tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is None:
        torch.save({"step": 3}, tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=name):
        load_pretrained(model, image=tmp_path / name)


def test_a_missing_file_is_named(model: VqaBert, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.pt"):
        load_pretrained(model, text=tmp_path / "none.pt")


def test_the_full_sizes_are_those_of_the_originals() -> None:
    with torch.device("meta"):
        ours = VqaBert(VqaBertConfig(resnet=101))
        theirs = BertModel(TheirConfig())
    pooler = 768 * 768 + 768
    second_segment = 768
    count = sum(p.numel() for p in theirs.parameters()) - pooler - second_segment
    assert sum(p.numel() for p in ours.text_encoder.parameters()) == count
    # torchvision's resnet101 has 44,549,160 parameters, 2,049,000 of them in its classifier.
    assert sum(p.numel() for p in ours.image_encoder.parameters()) == 44_549_160 - 2_049_000
