"""The trained weights of mmtrt's reference models (`checkpoints/`), and the cards that say what they are (`cards/`)."""

from __future__ import annotations

__version__ = "0.1.0"
