from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="signals, links and file descriptors as Linux has them")
def test_a_power_cut_at_any_moment_leaves_the_old_version_or_the_new_one(tmp_path: Path) -> None:
    script = Path(__file__).with_name("crashes.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)

    # The old one, then the new one: one moment parts them.
    switch = told["second"].index("1.1.0")
    assert switch > 30
    assert told["second"] == ["1.0.0"] * switch + ["1.1.0"] * (len(told["second"]) - switch)
    assert told["first"] == sorted(told["first"])
    assert len(told["first"]) > 10
    assert set(told["first"]) <= {"", "1.0.0"}
