"""Tiny models of transformers, with random weights, saved as a user's are: a folder for `hf:`."""

from __future__ import annotations

from pathlib import Path

from tiny_hf.families import FAMILIES
from tiny_hf.others import OTHERS
from tiny_hf.shared import save

__all__ = ["LISTED", "MAKERS", "make"]

MAKERS = {**FAMILIES, **OTHERS}
LISTED = frozenset(FAMILIES)
"""The families that mmtrt knows; the others go the general way."""


def make(name: str, folder: Path) -> Path:
    """Write one of them into a folder; the same weights each time."""
    return save(MAKERS[name], folder)
