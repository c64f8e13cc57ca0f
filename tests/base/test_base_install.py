"""An edge device's install: small, without frameworks, and it starts."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

import mmtrt

BaseMmtrt = Callable[..., "subprocess.CompletedProcess[str]"]

# Making the environment is part of the first test's time.
pytestmark = pytest.mark.timeout(1500)


def test_it_weighs_at_most_20_mb_beside_what_the_board_brings(base_install: dict[str, Any]) -> None:
    assert {"mmtrt", "pydantic", "rich", "typer"} <= set(base_install["counted"])
    assert "numpy" in base_install["not_counted"]
    assert sum(base_install["counted"].values()) == pytest.approx(base_install["counted_mb"], abs=0.1)
    assert base_install["counted_mb"] <= 20, base_install["counted"]


def test_mmtrt_s_own_wheel_is_small_and_carries_no_weights(base_install: dict[str, Any]) -> None:
    assert 0.5 < base_install["counted"]["mmtrt"] <= 4


def test_frameworks_are_absent(base_install: dict[str, Any]) -> None:
    assert base_install["present"] == []


def test_it_tells_its_version(base_mmtrt: BaseMmtrt) -> None:
    done = base_mmtrt("--version")

    assert (done.returncode, done.stdout.strip()) == (0, mmtrt.__version__)


def test_doctor_finds_tensorrt_rtx_and_no_framework(base_mmtrt: BaseMmtrt) -> None:
    done = base_mmtrt("doctor", "--json")

    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    states = {one["name"]: one["state"] for one in document["findings"]}
    assert states["TensorRT-RTX"] == "ok"
    assert states["torch"] == "missing"


def test_a_model_of_the_zoo_is_refused_by_what_it_needs(base_mmtrt: BaseMmtrt) -> None:
    done = base_mmtrt("export", "zoo:bev", "-o", "out")

    assert done.returncode == 4, done.stderr
    assert "pip install 'mmtrt[" in done.stderr


def test_doctor_knows_the_targets_by_name(base_mmtrt: BaseMmtrt) -> None:
    known = base_mmtrt("doctor", "--target", "orin-nano", "--json")
    unknown = base_mmtrt("doctor", "--target", "orin-nanno")

    assert known.returncode == 0, known.stderr
    assert "orin-nano" in known.stdout
    assert (unknown.returncode, "'orin-nano'" in unknown.stderr) == (2, True)
