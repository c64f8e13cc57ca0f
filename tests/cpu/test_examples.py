"""The examples, as they are run: on the ONNX of a bundle, in a process of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from made_bundles import make_bundle
from started import hear_ctrl_c
from tiny_fusion import LABELS, PREPROCESSING

EXAMPLES = Path(__file__).parents[2] / "examples"
QUESTION = "What colour is the circle?"


@pytest.fixture
def bundle(tiny: Path, tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "tiny.mmtrt", tiny, preprocessing=PREPROCESSING, labels=LABELS)


def picture(path: Path, seed: int) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    part = path.with_suffix(".part")
    part.write_bytes(b"P6 30 20 255\n" + pixels.tobytes())
    return part.rename(path)


def ask(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, EXAMPLES / "ask.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_question_is_answered_or_its_trouble_told(bundle: Path, tmp_path: Path) -> None:
    done = ask(bundle, picture(tmp_path / "scene.ppm", 0), QUESTION, "--onnx")
    assert done.returncode == 0, done.stderr
    answer, share = done.stdout.split(maxsplit=2)[:2]
    assert answer in LABELS["answer"]
    assert 20 <= int(share.strip("(%);")) <= 100

    done = ask(bundle, tmp_path / "scene.ppm", QUESTION)
    assert done.returncode == 4
    assert "mmtrt deploy tiny.mmtrt --to DIR" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_folder_is_watched_until_a_signal(bundle: Path, tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for place in range(3):
        picture(folder / f"{place}.ppm", place)
    (folder / "broken.ppm").write_bytes(b"P6 9 9 255\n")
    command = [sys.executable, EXAMPLES / "watch_folder.py", bundle, folder, QUESTION, "--onnx"]
    process = subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        start_new_session=True,
        preexec_fn=hear_ctrl_c,  # noqa: PLW1509 -- the tests have no threads that hold locks
    )
    assert process.stdout
    lines = [process.stdout.readline() for _ in range(4)]
    picture(folder / "later.ppm", 9)
    lines.append(process.stdout.readline())
    start = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert time.monotonic() - start < 10
    assert {line.partition(":")[0] for line in lines} == {"0.ppm", "1.ppm", "2.ppm", "broken.ppm", "later.ppm"}
    assert any("0 bytes of pixels, and 243 by its header" in line for line in lines)
    assert "5 taken" in out
    assert "4 done, 1 refused, 0 dropped, 0 left" in out
    assert "latency p50 " in out
    assert list(tmp_path.glob("mmtrt-session-*")) == []
