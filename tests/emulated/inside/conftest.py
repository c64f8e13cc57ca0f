"""The emulated GPU as the tests see it, which is left as empty as it was found."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "contract"))

from emulated_gpu import Emulated
from plans import make_plan

from mmtrt import Session


@pytest.fixture
def emulated() -> Iterator[Emulated]:
    """The driver's own counts; planted faults end with the test."""
    device = Emulated()
    yield device
    device.clear_faults()


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[object, Any, str]]:
    """Run `mmtrt ... --json` in this process; return the exit code, the document, and what was said besides."""
    from mmtrt.cli.main import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[object, Any, str]:
        monkeypatch.setattr(sys, "argv", ["mmtrt", *map(str, arguments), "--json"])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capfd.readouterr()
        return left.value.code, json.loads(out), err

    return run


if "MMTRT_EMULATED_TINY" in os.environ:

    @pytest.fixture(scope="session")
    def tiny() -> Path:
        """The test model that the outer process has exported."""
        return Path(os.environ["MMTRT_EMULATED_TINY"])

    @pytest.fixture(scope="module")
    def engine(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return make_plan(tiny, tmp_path_factory.mktemp("engines") / "tiny.engine")

    @pytest.fixture
    def model(tiny: Path) -> Iterator[Session]:
        """The same model on the CPU."""
        with Session(tiny) as session:
            yield session
