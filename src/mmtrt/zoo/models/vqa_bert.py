"""`vqa-r18-bert`, `vqa-r50-bert`, `vqa-r101-bert`: visual question answering at the sizes that users bring.

Weights are random, from a fixed seed, with BatchNorm's statistics taken from generated pictures: for export,
calibration and benchmarks, where what counts is structure and size; no accuracy is claimed of them.
`mmtrt.zoo.weights` puts trained weights of torchvision's ResNet and of BERT into the encoders.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from mmtrt.zoo.blocks.bert import Bert, BertConfig
from mmtrt.zoo.blocks.encoders import additive_mask
from mmtrt.zoo.blocks.fusion import CoAttentionBlock, ModalityAttention
from mmtrt.zoo.blocks.resnet import ResNet

ANSWERS: Final = 3129
"""Answer classes of VQA v2's usual vocabulary."""

PHRASE_LENGTH: Final = 5
IMAGE_SIZE: Final = 224
TEXT_LENGTH: Final = 20
_SEED: Final = 2026
_SPLITS: Final = {"calibration": 1, "test": 2, "statistics": 3}

Sample = dict[str, NDArray[np.float32] | NDArray[np.int64]]
Factory = tuple[nn.Module, dict[str, Tensor], dict[str, dict[int, str]], dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class VqaBertConfig:
    """Sizes of one model; `fusion` is "cross" (attention both ways) or "attention" (learned weights per modality)."""

    resnet: int
    bert: BertConfig = field(default_factory=BertConfig)
    fusion: str = "cross"
    heads: tuple[str, ...] = ("answer", "match")


CONFIGS: Final = {
    "vqa-r18-bert": VqaBertConfig(resnet=18, bert=BertConfig(width=256, heads=4, hidden=1024, blocks=4)),
    "vqa-r50-bert": VqaBertConfig(resnet=50),
    "vqa-r101-bert": VqaBertConfig(resnet=101, fusion="attention", heads=("answer", "match", "generate")),
}


class VqaBert(nn.Module):
    """Image `(B, 3, 224, 224)`, ids and mask `(B, T)` to the logits of each head."""

    def __init__(self, config: VqaBertConfig) -> None:
        super().__init__()
        width = config.bert.width
        self.config = config
        self.image_encoder = ResNet(config.resnet)
        self.text_encoder = Bert(config.bert)
        self.project = nn.Conv2d(self.image_encoder.channels, width, 1)
        self.image_norm = nn.LayerNorm(width)
        if config.fusion == "cross":
            self.cross = CoAttentionBlock(width, config.bert.heads, config.bert.hidden)
        else:
            self.weigh = ModalityAttention(width)
        fused = 2 * width if config.fusion == "cross" else width
        self.hidden = nn.Linear(fused, width)
        sizes = {"answer": ANSWERS, "match": 2, "generate": PHRASE_LENGTH * ANSWERS}
        self.heads = nn.ModuleDict({head: nn.Linear(width, sizes[head]) for head in config.heads})

    def forward(self, image: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Logits in the order of `config.heads`: answer `(B, A)`, match `(B, 2)`, generate `(B, L, V)`."""
        additive = additive_mask(mask)
        pictured = self.image_norm(self.project(self.image_encoder(image)).flatten(2).transpose(1, 2))
        text = self.text_encoder(ids, additive)
        if self.config.fusion == "cross":
            pictured, text = self.cross(pictured, text, additive)
            fused = torch.cat([pictured.mean(dim=1), text[:, 0]], dim=1)
        else:
            fused = self.weigh(torch.stack([pictured.mean(dim=1), text[:, 0]], dim=1))
        hidden = functional.gelu(self.hidden(fused))
        logits = {head: linear(hidden) for head, linear in self.heads.items()}
        if "generate" in logits:
            logits["generate"] = logits["generate"].reshape(hidden.shape[0], PHRASE_LENGTH, ANSWERS)
        return tuple(logits.values())


def make(name: str) -> VqaBert:
    """Build a model by name from its seed, in eval mode; BatchNorm holds the statistics of generated pictures."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(_SEED)
        model = VqaBert(CONFIGS[name])
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # a plain mean over what is seen
        norm.reset_running_stats()
    pictures = torch.from_numpy(np.stack([s["image"] for s in samples("statistics", 8)]))
    with torch.inference_mode():
        model.image_encoder.train()(pictures)
    return model.eval()


def samples(split: str = "calibration", count: int = 128, words: int = BertConfig().words) -> Iterator[Sample]:
    """Yield generated pairs: random pictures (3, 224, 224) float32, ids and mask (20,) int64, a third of them padded.

    A picture is noise at five scales, normalised as photographs usually are: mean 0, deviation 1.
    """
    for index in range(count):
        rng = np.random.default_rng((_SPLITS[split], _SEED, index))
        kept = TEXT_LENGTH if index % 3 else int(rng.integers(4, TEXT_LENGTH))
        mask = (np.arange(TEXT_LENGTH) < kept).astype(np.int64)
        ids = rng.integers(1, words, TEXT_LENGTH) * mask
        yield {"image": _picture(rng), "ids": ids.astype(np.int64), "mask": mask}


def _picture(rng: np.random.Generator) -> NDArray[np.float32]:
    total = np.zeros((3, IMAGE_SIZE, IMAGE_SIZE), dtype=np.float32)
    for cell in (112, 56, 28, 7, 1):
        coarse = rng.standard_normal((3, IMAGE_SIZE // cell, IMAGE_SIZE // cell), dtype=np.float32)
        total += coarse.repeat(cell, axis=1).repeat(cell, axis=2) * np.float32(cell**0.25)
    total -= total.mean()
    return np.asarray(total / total.std(), dtype=np.float32)


def factory(name: str) -> Factory:
    """Give what `zoo:NAME` exports: module, example inputs, dynamic axes, extra facts."""
    model = make(name)
    examples = list(samples("test", 2))
    inputs = {n: torch.from_numpy(np.stack([e[n] for e in examples])) for n in ("image", "ids", "mask")}
    axes = {"image": {0: "batch"}, "ids": {0: "batch", 1: "text"}, "mask": {0: "batch", 1: "text"}}
    extra = {
        "modalities": {"image": ["image"], "text": ["ids", "mask"]},
        "outputs": list(model.config.heads),
        "ranges": {"batch": [1, 2, 16], "text": [4, TEXT_LENGTH, 64]},
        "samples": samples,
    }
    return model, inputs, axes, extra


vqa_r18_bert = partial(factory, "vqa-r18-bert")
vqa_r50_bert = partial(factory, "vqa-r50-bert")
vqa_r101_bert = partial(factory, "vqa-r101-bert")
