"""The base install: mmtrt's wheel with its base dependencies and TensorRT-RTX, in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BaseMmtrt = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def base_install() -> dict[str, Any]:
    """What is installed, where, and what it weighs, as `scripts/base_install.py --json` tells.

    The environment is `.venv-base` of the project; it is made once, and anew where the code or the pins changed.
    """
    command = [sys.executable, str(ROOT / "scripts" / "base_install.py"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode in {0, 1}, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def base_mmtrt(base_install: dict[str, Any], tmp_path: Path) -> BaseMmtrt:
    """Run the command line of the base install, in an empty folder unless `cwd` says otherwise."""
    command = Path(base_install["venv"]) / "bin" / "mmtrt"
    # Nothing of the environment that runs the tests may lend it a module.
    outer = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}

    def run(*arguments: object, cwd: Path = tmp_path, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(command), *map(str, arguments)],
            cwd=cwd,
            env={**outer, "PYTHONDONTWRITEBYTECODE": "1", **env},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    return run
