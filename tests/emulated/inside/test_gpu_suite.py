"""`scripts/gpu` on the emulated GPU: its steps run, what they find is on the page, and a step that fails is a row."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from plans import make_plan

SUITE = Path(__file__).parents[3] / "benchmarks" / "gpu" / "run.py"


def suite(out: Path, work: Path, *steps: str, minutes: float = 2) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SUITE), "--out", str(out), "--work", str(work), "--minutes", str(minutes)]
    return subprocess.run([*command, "--steps", *steps], capture_output=True, text=True, check=False, timeout=200)


@pytest.fixture
def work(tiny: Path, tmp_path: Path) -> Path:
    """The folder that the step `prepare` leaves, with engines that run at once."""
    folder = tmp_path / "work" / "tiny"
    folder.mkdir(parents=True)
    for precision in ("fp16", "int8"):
        make_plan(tiny, folder / f"tiny.{precision}.engine")
    return folder.parent


def test_each_step_is_on_the_page(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = suite(out, work, "overhead", "events", "misuse")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (out / "summary.md").read_text(encoding="utf-8") + "\n"
    assert "Emulated GPU" in done.stdout
    for title in ("## Host overhead, batch 1", "## Against bare CUDA events", "## Pulled away"):
        assert title in done.stdout
    overhead = json.loads((out / "overhead.json").read_text(encoding="utf-8"))["rows"]
    assert set(overhead) == {"tiny fp16", "tiny int8"}
    assert all(row["cuda_graph"] and row["n"] > 0 for row in overhead.values())
    wrongs = json.loads((out / "misuse.json").read_text(encoding="utf-8"))["rows"]
    assert len(wrongs) > 5
    assert all(row["clear"] and row["works_on"] for row in wrongs.values())


def test_a_step_that_fails_is_a_row_and_the_next_one_runs(tmp_path: Path, work: Path) -> None:
    for engine in work.rglob("*.fp16.engine"):
        engine.write_bytes(engine.read_bytes()[:-1])
    out = tmp_path / "out"
    done = suite(out, work, "events", "misuse")
    assert done.returncode == 1
    steps = json.loads((out / "steps.json").read_text(encoding="utf-8"))["steps"]
    assert [row["state"] for row in steps] == ["failed with exit code 1"] * 2
    assert any("was altered" in line for line in steps[0]["log"])


def test_an_engine_that_fails_takes_no_other_row(tmp_path: Path, tiny: Path, work: Path) -> None:
    (work / "other").mkdir()
    make_plan(tiny, work / "other" / "other.fp16.engine")
    for engine in work.rglob("tiny.*.engine"):
        engine.write_bytes(engine.read_bytes()[:-1])
    out = tmp_path / "out"
    assert suite(out, work, "overhead", "events").returncode == 1
    for step in ("overhead", "events"):
        rows = json.loads((out / f"{step}.json").read_text(encoding="utf-8"))["rows"]
        assert [name.partition(" ")[0] for name, row in rows.items() if "error" not in row] == ["other"]
    page = (out / "summary.md").read_text(encoding="utf-8")
    assert "was altered" in page


def test_speed_measures_in_one_call_and_tells_what_was_refused(tmp_path: Path, work: Path) -> None:
    out = tmp_path / "out"
    assert suite(out, work, "speed").returncode == 1
    told = json.loads((out / "speed.json").read_text(encoding="utf-8"))
    assert list(told["rows"]) == ["tiny"]
    assert "16 is outside the profile" in told["rows"]["tiny"]["said"]
    assert "16 is outside the profile" in (out / "summary.md").read_text(encoding="utf-8")


def test_the_page_tells_each_batch_its_ratio_and_where_int8_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SUITE.parent))
    summary = importlib.import_module("summary")
    row = {"file": "a/b.int8.engine", "runs": "RTX", "p50_ms": 1.0, "p99_ms": 2.0, "cuda_graph": True}
    lost = {"slower": {"slower": [{"module": "stem", "why": ["still computed in fp16"]}]}}
    ratio = {"p50": 0.5, "ci95": [0.4, 0.6]}
    results = [{**row, "sizes": {"batch": n}, "ratio": ratio, "layers": lost} for n in (1, 16)]
    rows = {"b": {"results": results, "not_run": {"b torch-compile": "no compiler"}}}
    facts = {
        "gpu": {"name": "GPU", "compute_capability": "9.0", "memory_mib": 1, "driver": "1"},
        "machine": {"cores": 1, "cpu": "c"},
        "versions": {},
        "begun": "now",
    }
    page = summary.summary({"facts": facts, "speed": {"rows": rows}})
    assert page.count("| 0.50 (0.40 to 0.60) |") == 2
    assert "| b | batch 16 | b.int8.engine | RTX |" in page
    assert "not run: no compiler" in page
    assert "| b | batch 1 | stem | still computed in fp16 |" in page


def test_what_is_kept_for_later_steps_is_not_taken(tmp_path: Path, work: Path) -> None:
    done = suite(tmp_path / "out", work, "overhead", "misuse", minutes=0.5)
    # Of 30 s, 15 are kept for the step behind.
    assert "[overhead] what the runtime adds to the engine's time (at most 15 s)" in done.stderr
    assert "[misuse]" in done.stderr


def test_no_step_begins_that_could_not_end(tmp_path: Path, work: Path) -> None:
    done = suite(tmp_path / "out", work, "soak", minutes=0.01)
    assert done.returncode == 1
    assert "no time left" in done.stdout
