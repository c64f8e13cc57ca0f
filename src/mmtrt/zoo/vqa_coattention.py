"""`vqa-coattention`: visual question answering by co-attention; three heads: answer, match, generate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mmtrt.errors import ModelError
from mmtrt.zoo import words
from mmtrt.zoo.encoders import ImageEncoder, TextEncoder, additive_mask
from mmtrt.zoo.events import padded, samples
from mmtrt.zoo.fusion import CoAttentionFusion
from mmtrt.zoo.heads import VqaHeads
from mmtrt.zoo.scenes import IMAGE_SIZE

NAME: Final = "vqa-coattention"
CHECKPOINT: Final = Path(__file__).parent / "checkpoints" / f"{NAME}.safetensors"

Factory = tuple[nn.Module, dict[str, Tensor], dict[str, dict[int, str]], dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class VqaConfig:
    """Sizes of the model; the defaults are those of the checkpoint."""

    width: int = 128
    heads: int = 4
    hidden: int = 160
    channels: tuple[int, ...] = (32, 64, 96)
    residual_blocks: int = 2
    text_blocks: int = 2
    fusion_blocks: int = 2


class VqaCoattention(nn.Module):
    """A picture and a question in; answer, match and phrase logits out."""

    def __init__(self, config: VqaConfig | None = None) -> None:
        super().__init__()
        c = config or VqaConfig()
        self.config = c
        self.image_encoder = ImageEncoder(IMAGE_SIZE, c.channels, c.residual_blocks, c.width)
        self.text_encoder = TextEncoder(
            len(words.QUESTION_WORDS), words.TEXT_MAX, c.width, c.heads, c.hidden, c.text_blocks
        )
        self.fusion = CoAttentionFusion(c.width, c.heads, c.hidden, c.fusion_blocks)
        self.heads = VqaHeads(4 * c.width, c.width, len(words.ANSWERS), words.PHRASE_LENGTH, len(words.PHRASE_WORDS))

    def forward(self, image: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits `(B, A)`, `(B, 2)`, `(B, L, V)` of image `(B, 3, 64, 64)`, ids and mask `(B, T <= 16)`."""
        return self.fuse(self.encode_image(image), ids, mask)

    def encode_image(self, image: Tensor) -> Tensor:
        """Grid tokens `(B, 64, D)` of images `(B, 3, 64, 64)`."""
        tokens: Tensor = self.image_encoder(image)
        return tokens

    def fuse(self, image_tokens: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the three heads for image tokens `(B, 64, D)`, one question each."""
        hidden = additive_mask(mask)
        fused = self.fusion(image_tokens, self.text_encoder(ids, hidden), hidden)
        answer, match, phrase = self.heads(fused)
        return answer, match, phrase


def load(path: Path = CHECKPOINT) -> VqaCoattention:
    """Load the trained model, in eval mode; ModelError where the checkpoint is missing or unfit."""
    command = f"python -m mmtrt.zoo.train {NAME}"
    if not path.is_file():
        raise ModelError(f"the checkpoint of {NAME} is missing: {path}", fix=f"Train it: {command}")
    model = VqaCoattention()
    state = load_file(path)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"{path} does not fit {NAME}: {error}", fix=f"Train it anew: {command}") from error
    return model.eval()


def factory() -> Factory:
    """Give what `zoo:vqa-coattention` exports: module, example inputs, dynamic axes, extra facts."""
    examples = [padded(s, 12) for s in samples("calibration", 40) if 4 < len(s["ids"]) <= 12][:2]
    inputs = {n: torch.from_numpy(np.stack([e[n] for e in examples])) for n in ("image", "ids", "mask")}
    axes = {"image": {0: "batch"}, "ids": {0: "batch", 1: "text"}, "mask": {0: "batch", 1: "text"}}
    extra = {
        "modalities": {"image": ["image"], "text": ["ids", "mask"]},
        "outputs": ["answer", "match", "generate"],
        "ranges": {"batch": [1, 8, 32], "text": [words.TEXT_MIN, 12, words.TEXT_MAX]},
        "samples": samples,
    }
    return load(), inputs, axes, extra
