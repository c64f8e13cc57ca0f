"""An edge device deploys with its base install alone, TensorRT-RTX in the board's place: verifies, builds, tells."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

BaseMmtrt = Callable[..., "subprocess.CompletedProcess[str]"]
pytestmark = pytest.mark.timeout(1500)


def test_a_bundle_is_verified_and_its_engine_built(base_mmtrt: BaseMmtrt, tiny_bundle: Path, tmp_path: Path) -> None:
    done = base_mmtrt(
        "deploy", tiny_bundle, "--to", tmp_path / "there", "--target", "any-rtx", "--build-only", "--json"
    )

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["state"], told["switched"], told["target"]) == ("built, not run", False, "any-rtx")
    assert told["engine"] == "built"
    assert (told["ran"], told["parity"], told["latency"]) == ("", None, None)
    assert not (tmp_path / "there" / "current").exists()


def test_an_altered_bundle_is_refused_before_anything_is_built(
    base_mmtrt: BaseMmtrt, tiny_bundle: Path, tmp_path: Path
) -> None:
    altered = Path(shutil.copy(tiny_bundle, tmp_path / "altered.mmtrt"))
    data = bytearray(altered.read_bytes())
    data[len(data) // 2] ^= 1
    altered.write_bytes(data)

    done = base_mmtrt("deploy", altered, "--to", tmp_path / "there", "--build-only")

    assert done.returncode == 3, done.stderr
    assert not list(tmp_path.rglob("*.engine"))
