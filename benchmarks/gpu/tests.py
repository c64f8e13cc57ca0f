"""The tests that need a GPU, by pytest: the engine's own and the one body of the Runner contract."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

from step import asked

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Run them and count."""
    given = asked()
    junit = given.work / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "tests/gpu", "tests/contract/test_runners.py"]
    done = subprocess.run([*command, f"--junitxml={junit}"], cwd=ROOT, check=False, timeout=max(given.left_s, 1))
    suite = next(ET.parse(junit).getroot().iter("testsuite"))  # noqa: S314 -- our own pytest wrote it
    given.write({key: int(suite.get(key, "0")) for key in ("tests", "failures", "errors", "skipped")})
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
