"""What all tiny models share: sizes, a tokenizer of whole words, and how they are written to a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

WORDS = 64
"""Tokens of a tiny vocabulary: `[PAD]` 0, `[CLS]` 1, `[SEP]` 2, `[UNK]` 3, then words."""
_SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
TEXT = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

Made = tuple[Any, dict[str, Any]]
"""A model, and what its processor's file says."""


def size_of(side: int) -> dict[str, Any]:
    """Tell a square picture's size as a processor does."""
    return {"do_resize": True, "size": {"height": side, "width": side}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def layers(width: int = 32, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        **more,
    }


def bert(**more: Any) -> dict[str, Any]:
    return {**layers(vocab_size=WORDS, max_position_embeddings=32, type_vocab_size=2, **TEXT), **more}


def save(make: Callable[[], Made], folder: Path) -> Path:
    """Write a tiny model into a folder: configuration, weights, the processor's and the tokenizer's files."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(7)  # The same weights each time.
        model, processor = make()
        _liven(model)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    _save_tokenizer(folder)
    return folder


def _liven(model: torch.nn.Module) -> None:
    """Random biases and norms: a bias of zero, as initialised, would hide one that is lost."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1 and weight.numel() > 1:
                weight.add_(0.1 * torch.randn_like(weight))
            elif name.endswith("weight") and weight.ndim == 2:
                weight.add_(0.05 * torch.randn_like(weight))


def _save_tokenizer(folder: Path) -> None:
    """Write a tokenizer of whole words."""
    vocabulary = {text: i for i, text in enumerate((*_SPECIAL, *(f"w{i}" for i in range(len(_SPECIAL), WORDS))))}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="[UNK]")),
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
    ).save_pretrained(folder)
