"""Visual question answering, whichever way the two modalities are fused: what the `vqa-*` models share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmtrt.zoo import preprocessing
from mmtrt.zoo.blocks.encoders import ImageEncoder, TextEncoder, additive_mask
from mmtrt.zoo.blocks.heads import VqaHeads
from mmtrt.zoo.checkpoints import borrow
from mmtrt.zoo.data import words
from mmtrt.zoo.data.events import padded, samples
from mmtrt.zoo.data.scenes import IMAGE_SIZE

__all__ = ["Factory", "Pictured", "Vqa", "VqaConfig", "example", "from_coattention", "heads_on", "start_from"]

Factory = tuple[nn.Module, dict[str, Tensor], dict[str, dict[int, str]], dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class VqaConfig:
    """Sizes of the model; the defaults are those of vqa-coattention's checkpoint."""

    width: int = 128
    heads: int = 4
    hidden: int = 160
    channels: tuple[int, ...] = (32, 64, 96)
    residual_blocks: int = 2
    text_blocks: int = 2
    fusion_blocks: int = 2
    fusion_hidden: int = 160


class Pictured(nn.Module):
    """What has the encoders of a picture and of a text; a frozen image encoder keeps its statistics while training."""

    def __init__(self, config: VqaConfig, vocabulary: int) -> None:
        super().__init__()
        c = config
        self.config = c
        self.image_encoder = ImageEncoder(IMAGE_SIZE, c.channels, c.residual_blocks, c.width)
        self.text_encoder = TextEncoder(vocabulary, words.TEXT_MAX, c.width, c.heads, c.hidden, c.text_blocks)

    def train(self, mode: bool = True) -> Pictured:  # noqa: FBT001, FBT002 - torch's signature
        """All to training or to eval mode, but a frozen image encoder."""
        super().train(mode)
        if not any(p.requires_grad for p in self.image_encoder.parameters()):
            self.image_encoder.eval()
        return self

    def encode_image(self, image: Tensor) -> Tensor:
        """Grid tokens `(B, 64, D)` of images `(B, 3, 64, 64)`."""
        tokens: Tensor = self.image_encoder(image)
        return tokens

    def encode_text(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens `(B, T, D)` of ids and mask `(B, T <= 16)`, and the additive mask `(B, 1, 1, T)`.

        Masked ids become padding: a missing text is the same whatever was in its place.
        """
        additive = additive_mask(mask)
        return self.text_encoder(ids * mask, additive), additive


class Vqa(Pictured):
    """A picture and a question in; answer, match and phrase logits out, by way of a fusion and heads on it.

    `fusion` takes image tokens `(B, 64, D)`, text tokens `(B, T, D)` and the text's additive mask `(B, 1, 1, T)`;
    `heads` take what it returns.
    """

    def __init__(self, config: VqaConfig, fusion: nn.Module, heads: nn.Module) -> None:
        super().__init__(config, len(words.QUESTION_WORDS))
        self.fusion = fusion
        self.heads = heads

    def forward(self, image: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits `(B, A)`, `(B, 2)`, `(B, L, V)` of image `(B, 3, 64, 64)`, ids and mask `(B, T <= 16)`."""
        return self.fuse(self.encode_image(image), ids, mask)

    def fuse(self, image_tokens: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the three heads for image tokens `(B, 64, D)`, one question each."""
        answer, match, phrase = self.heads(self.fusion(image_tokens, *self.encode_text(ids, mask)))
        return answer, match, phrase


def heads_on(fused: int, hidden: int) -> VqaHeads:
    """Heads for the generated questions on a vector `(B, fused)`."""
    return VqaHeads(fused, hidden, len(words.ANSWERS), words.PHRASE_LENGTH, len(words.PHRASE_WORDS))


def from_coattention(model: Vqa) -> str:
    """Start from the encoders of vqa-coattention, and leave the image encoder as it is."""
    return start_from(model, "vqa-coattention", ("image_encoder", "text_encoder"))


def start_from(model: Pictured, name: str, parts: tuple[str, ...]) -> str:
    """Start from parts of another model of the zoo, and leave its image encoder as it is; returns what was done."""
    borrow(model, name, parts)
    model.image_encoder.requires_grad_(False)  # noqa: FBT003 - torch's signature
    told = ", ".join(part.replace("_", " ") for part in parts)
    return f"Starts from {name}: {told}. The image encoder stays frozen, all else learns."


def example(model: nn.Module) -> Factory:
    """Give what a factory gives: the module, example inputs, dynamic axes, extra facts."""
    examples = [padded(s, 12) for s in samples("calibration", 40) if 4 < len(s["ids"]) <= 12][:2]
    inputs = {n: torch.from_numpy(np.stack([e[n] for e in examples])) for n in ("image", "ids", "mask")}
    axes = {"image": {0: "batch"}, "ids": {0: "batch", 1: "text"}, "mask": {0: "batch", 1: "text"}}
    extra = {
        "modalities": {"image": ["image"], "text": ["ids", "mask"]},
        "outputs": ["answer", "match", "generate"],
        "ranges": {"batch": [1, 8, 32], "text": [words.TEXT_MIN, 12, words.TEXT_MAX]},
        "samples": samples,
        "preprocessing": preprocessing.VQA,
        "labels": preprocessing.LABELS["vqa"],
    }
    return model, inputs, axes, extra
