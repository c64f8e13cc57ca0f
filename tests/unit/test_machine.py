from __future__ import annotations

import os
from pathlib import Path

import pytest

from mmtrt.machine import machine


def test_the_machine_is_told() -> None:
    told = machine()
    assert told["cpu"]
    assert 1 <= told["cores"] <= (os.cpu_count() or 1)
    assert told["memory_gib"] is None or told["memory_gib"] > 0


def test_a_machine_that_tells_nothing_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise OSError

    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setattr(os, "sysconf", refuse)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    told = machine()
    assert told["memory_gib"] is None
    assert told["cores"] == os.cpu_count()
    assert isinstance(told["cpu"], str)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "processor: 0\nmodel name\t: A Chip\n")
    assert machine()["cpu"] == "A Chip"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "processor: 0\n")
    assert machine()["cpu"]
