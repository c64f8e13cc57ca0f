from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import mmtrt

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PINNED_EXTRAS = ("onnx", "export", "hf", "rtx", "cuda", "dev")
SCRIPTS = (".ci/run", "scripts/check", "scripts/demo", "scripts/pin", "scripts/test")
PYTHONS = [
    line.rpartition(" ")[2] for line in PROJECT["project"]["classifiers"] if re.search(r"Python :: 3\.\d+$", line)
]


def pins(python: str) -> dict[str, Version]:
    path = ROOT / "constraints" / f"py{python.replace('.', '')}.txt"
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    parsed = {canonicalize_name(name): Version(version) for name, version in (line.split("==") for line in lines)}
    assert len(parsed) == len(lines), f"{path.name} pins something twice"
    return parsed


def direct_requirements(python: str) -> list[Requirement]:
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for extra in PINNED_EXTRAS for line in extras[extra])]
    environment = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    return [
        requirement
        for requirement in map(Requirement, lines)
        if requirement.name != "mmtrt" and (requirement.marker is None or requirement.marker.evaluate(environment))
    ]


@pytest.mark.parametrize("python", PYTHONS)
def test_constraints_pin_what_the_project_asks_for(python: str) -> None:
    pinned = pins(python)
    unmet = [
        str(requirement)
        for requirement in direct_requirements(python)
        if (version := pinned.get(canonicalize_name(requirement.name))) is None or version not in requirement.specifier
    ]

    assert unmet == []
    assert {"hatchling", "pip", "setuptools"} <= pinned.keys()
    assert pinned["torch"] == pins(PYTHONS[0])["torch"]


def test_supported_pythons_have_constraints_and_no_other() -> None:
    assert PYTHONS[0] == "3.10"
    assert sorted(path.stem for path in (ROOT / "constraints").iterdir()) == [
        f"py{python.replace('.', '')}" for python in PYTHONS
    ]


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_executable_and_parse(script: str) -> None:
    path = ROOT / script

    assert path.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")
    assert os.access(path, os.X_OK)
    subprocess.run(["/usr/bin/env", "bash", "-n", path], check=True)


def test_scripts_name_the_missing_python(tmp_path: Path) -> None:
    environment = {**os.environ, "MMTRT_PYTHON": str(tmp_path / "python"), "MMTRT_VENV": str(tmp_path / "venv")}
    done = subprocess.run(
        [ROOT / "scripts" / "check"], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == 4
    assert "needs Python 3.10 to 3.13" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_every_module_has_its_layer() -> None:
    contracts = PROJECT["tool"]["importlinter"]["contracts"]

    assert [contract for contract in contracts if contract["type"] == "layers" and contract["exhaustive"]]


def test_version_is_a_python_version() -> None:
    assert str(Version(mmtrt.__version__)) == mmtrt.__version__
