"""What the benchmark's tests share: a clock that goes on only where a runner takes some time."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from timed_fakes import Clock

from mmtrt.bench import measure
from mmtrt.runtimes import timing


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(measure, "time", made)
    monkeypatch.setattr(timing, "time", made)
    return made
