"""Which inputs are masks, and what they hold where a modality is missing."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from mmtrt.errors import ModelError
from mmtrt.tensors import Array

__all__ = ["find_masks"]


def find_masks(reference: str, told: Any, examples: Mapping[str, Array]) -> dict[str, int]:
    """Return each input that masks, and the value that hides: as told, else by its name.

    `told` is a list of names, where 0 hides, or a mapping from name to 0 or 1. By name: what contains "mask" hides by
    0, as Hugging Face's attention masks do; a boolean that also contains "pad" hides by 1, as PyTorch's
    `key_padding_mask` does.
    """
    if told is None:
        found = {name: array.dtype.kind == "b" for name, array in examples.items() if "mask" in name.lower()}
        return {name: int(boolean and "pad" in name.lower()) for name, boolean in found.items()}
    named = told if isinstance(told, Mapping) else dict.fromkeys(told, 0) if isinstance(told, (list, tuple)) else None
    if named is None or not all(value in (0, 1) for value in named.values()):
        raise ModelError(
            f"{reference}: masks is {told!r}", fix="Give the names of inputs that hide by 0, or {name: 0 or 1}."
        )
    for name in named:
        if name not in examples:
            near = get_close_matches(str(name), examples, n=1)
            raise ModelError(
                f"{reference}: masks names {name!r}, which is no input",
                fix=f"Did you mean {near[0]!r}?" if near else f"Its inputs are {', '.join(examples)}.",
            )
    return {str(name): int(value) for name, value in named.items()}
