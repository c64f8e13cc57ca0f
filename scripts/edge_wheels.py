"""Whether all that an edge device installs comes as wheels for 64-bit Arm: the base install, `cuda`, TensorRT-RTX.

Asks the package index, downloads metadata only, and installs nothing. pip is told platform and Python, but judges
environment markers by the machine that it runs on; so the dependencies are followed here, by the markers of the board.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
# JetPack 6 is Ubuntu 22.04 (glibc 2.35) with Python 3.10; JetPack 7 is Ubuntu 24.04 with Python 3.12.
PYTHONS = ("3.10", "3.12")
GLIBC_MINOR = 35
MACHINE = "aarch64"
EXTRAS = ("cuda",)
# `tensorrt-rtx` itself is a source distribution that only asks for these.
TENSORRT_RTX = ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13-libs")


def main() -> int:
    """Follow the dependencies for each Python; exit code 1 where a wheel is missing."""
    failed = False
    for python in PYTHONS:
        start = time.monotonic()
        found, missing = follow(python)
        for name, wheel in sorted(found.items()):
            print(f"Python {python} {MACHINE}  {name:28} {wheel}")
        for name, why in sorted(missing.items()):
            print(f"Python {python} {MACHINE}  {name:28} NO WHEEL: {why}")
        seconds = time.monotonic() - start
        print(f"Python {python} {MACHINE}: {len(found)} wheels, {len(missing)} missing, {seconds:.1f} s\n")
        failed |= bool(missing)
    return 1 if failed else 0


def follow(python: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the file of each distribution that has a wheel, and pip's words for each that has none."""
    found: dict[str, str] = {}
    missing: dict[str, str] = {}
    wanted = {canonicalize_name(one.name): one for one in own_requirements(python)}
    while wanted:
        packages, refused = resolve(python, wanted.values())
        missing |= refused
        found |= {name: package["download_info"]["url"].rpartition("/")[2] for name, package in packages.items()}
        asked = [
            requirement
            for name, package in packages.items()
            for requirement in for_board(package["metadata"].get("requires_dist", []), wanted[name].extras, python)
        ]
        wanted = {n: one for one in asked if (n := canonicalize_name(one.name)) not in {*found, *missing}}
    return found, missing


def own_requirements(python: str) -> list[Requirement]:
    """Return what mmtrt itself asks for on that Python, and TensorRT-RTX."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *(one for extra in EXTRAS for one in project["optional-dependencies"][extra])]
    return for_board([*texts, *TENSORRT_RTX], (), python)


def for_board(texts: Iterable[str], extras: Iterable[str], python: str) -> list[Requirement]:
    """Return the requirements whose markers hold on the board."""
    board = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": MACHINE,
    }
    parsed = [Requirement(text) for text in texts]
    return [
        one
        for one in parsed
        if one.marker is None or any(one.marker.evaluate({**board, "extra": extra}) for extra in ("", *extras))
    ]


def resolve(python: str, wanted: Iterable[Requirement]) -> tuple[dict[str, Any], dict[str, str]]:
    """Ask pip for all at once; where that fails, for each alone, so that the one at fault is named."""
    wanted = list(wanted)
    try:
        return report(python, wanted), {}
    except LookupError as error:
        if len(wanted) == 1:
            return {}, {canonicalize_name(wanted[0].name): str(error)}
    packages: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for one in wanted:
        got, refused = resolve(python, [one])
        packages |= got
        missing |= refused
    return packages, missing


def report(python: str, wanted: Iterable[Requirement]) -> dict[str, Any]:
    """Return pip's report of each wheel; LookupError with pip's words where it finds none."""
    tags = [f"manylinux_2_{minor}_{MACHINE}" for minor in range(GLIBC_MINOR, 16, -1)] + [f"manylinux2014_{MACHINE}"]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--no-input"),
            *("--disable-pip-version-check", "--quiet", "--use-feature=fast-deps", "--report", f"{folder}/report.json"),
            *("--target", folder, "--only-binary=:all:", "--implementation", "cp", "--python-version", python),
            *(word for tag in tags for word in ("--platform", tag)),
            *("--constraint", str(ROOT / "constraints" / f"py{python.replace('.', '')}.txt")),
            *(f"{one.name}{one.specifier}" for one in wanted),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            errors = re.findall(r"^ERROR: (.*)", done.stderr, re.MULTILINE)
            raise LookupError("; ".join(errors) or done.stderr.strip())
        packages = json.loads(Path(folder, "report.json").read_text(encoding="utf-8"))["install"]
    return {canonicalize_name(one["metadata"]["name"]): one for one in packages}


if __name__ == "__main__":
    sys.exit(main())
