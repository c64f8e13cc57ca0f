"""Each file of `inside` in a process of its own that has the emulated GPU; here, and in all other tests, there is none.

By hand, with an ONNX that `mmtrt export tiny_fusion:factory -o DIR` made of `tests/models/tiny_fusion.py`:
`MMTRT_EMULATED_TINY=DIR/tiny_fusion.onnx python tests/emulated/run.py pytest tests/emulated/inside`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from emulation import HERE, compiler, environment

INSIDE = sorted(path.name for path in (HERE / "inside").glob("test_*.py"))
DEVICES = {
    "a device with its own memory": {},
    "a slow device that shares the host's memory": {"EMULATED_INTEGRATED": "1", "EMULATED_DELAY_US": "300"},
}
ALSO_ON_THE_OTHER = {"test_cuda_contract.py"}
# A thread that waits inside the driver hears no signal.
TIMEOUT = ("-o", "timeout=240", "-o", "timeout_method=thread")
RUNS = [(file, device) for file in INSIDE for device in DEVICES if file in ALSO_ON_THE_OTHER or not DEVICES[device]]
pytestmark = pytest.mark.skipif(compiler() is None, reason="no gcc, which builds the emulated driver")


def test_there_are_tests_inside() -> None:
    assert len(INSIDE) > 1
    assert set(INSIDE) >= ALSO_ON_THE_OTHER


@pytest.mark.parametrize(("file", "device"), RUNS)
def test_on_the_emulated_gpu(file: str, device: str, tiny: Path) -> None:
    # A process that pytest starts is none of the workers that share this run's files.
    kept = {key: value for key, value in os.environ.items() if key not in {"PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST"}}
    kept.setdefault("PYTEST_XDIST_WORKER", "emulated")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "--tb=short", *TIMEOUT, str(HERE / "inside" / file)],
        cwd=HERE.parents[1],
        env={**environment(kept), **DEVICES[device], "MMTRT_EMULATED_TINY": str(tiny)},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"{done.stdout}\n{done.stderr}", pytrace=False)
    assert " passed" in done.stdout


def test_each_function_has_the_signature_that_nvidia_declares() -> None:
    headers = sorted(Path("/usr/local").glob("cuda*/include/cuda.h"))
    version = headers and int(headers[-1].read_text(encoding="utf-8").partition("define CUDA_VERSION ")[2].split()[0])
    if not version or version < 13000:
        pytest.skip("no CUDA toolkit of version 13 in /usr/local, whose cuda.h would tell")
    gcc = compiler()
    assert gcc
    command = [gcc, "-std=gnu11", "-fsyntax-only", "-DEMULATED_CUDA_H", f"-I{headers[-1].parent}"]
    sources = sorted(map(str, (HERE / "driver").glob("*.c")))
    done = subprocess.run([*command, *sources], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
