"""What the tests of checks in CI read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from refusals import Said


def document(said: Said, code: int = 0) -> dict[str, Any]:
    """The one JSON document on stdout, of a command that left with `code`."""
    assert said.code == code, said.err
    found: dict[str, Any] = json.loads(said.out)
    return found


def golden_rows(tiny: Path) -> list[dict[str, np.ndarray]]:
    """The golden samples, with labels and outputs, in order."""
    files = sorted(tiny.with_name("tiny.golden").glob("*.npz"))
    return [dict(np.load(file)) for file in files]
