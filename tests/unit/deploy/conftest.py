from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from deployments import Doubles, make_bundle

from mmtrt.deploy.deploying import deploy
from mmtrt.deploy.request import DeployRequest
from mmtrt.results import DeployResult


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is synced, and when, `test_crashes.py` looks at."""
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture
def doubles() -> Iterator[Doubles]:
    """The board, the builder and the engine's run."""
    made = Doubles()
    with ExitStack() as stack:
        for patch in made.patches():
            stack.enter_context(patch)
        yield made


@pytest.fixture
def deployed(doubles: Doubles, tmp_path: Path) -> Callable[..., DeployResult]:
    """Deploy a bundle to `DIR`."""

    def run(bundle: Path, **changes: Any) -> DeployResult:
        return deploy(DeployRequest(**{"bundle": bundle, "directory": tmp_path / "DIR", **changes}))

    return run


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "first.mmtrt")


@pytest.fixture
def second(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "second.mmtrt", version="1.1.0")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "DIR"
