"""A tiny BLIP for question answering, random weights saved to disk as a user's are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

END = 2


def config() -> Any:
    from transformers import BlipConfig

    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokens = {"bos_token_id": 1, "sep_token_id": END, "eos_token_id": END, "pad_token_id": 0}
    # A head that is not the table of words: with random weights each word would be followed by itself.
    text = {"initializer_range": 0.15, "tie_word_embeddings": False}
    text |= {"vocab_size": 48, "encoder_hidden_size": 32, "max_position_embeddings": 32}
    vision = {"image_size": 32, "patch_size": 8, "initializer_range": 0.3}
    return BlipConfig(
        text_config={**layers, **tokens, **text}, vision_config={**layers, **vision}, tie_word_embeddings=False
    )


def save(folder: Path) -> Path:
    """Write configuration and weights, as `save_pretrained` does: phrases of 1 to 20 words, hardly two alike."""
    from transformers import BlipForQuestionAnswering

    torch.manual_seed(4)
    model = BlipForQuestionAnswering(config()).eval()
    head = model.text_decoder.cls.predictions.decoder
    with torch.no_grad():
        # Else most phrases would never end.
        head.bias[END] += 3 * head.weight.norm(dim=1).mean()
    model.save_pretrained(folder)
    return folder


def load(folder: Path) -> Any:
    from transformers import BlipForQuestionAnswering

    return BlipForQuestionAnswering.from_pretrained(folder, dtype=torch.float32).eval()
