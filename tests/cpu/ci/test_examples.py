"""The action and the examples: they parse, use flags that there are, and no input of theirs becomes a command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from mmtrt.cli.main import app

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[3]
ACTION = ROOT / "action.yml"
EXAMPLES = sorted((ROOT / "examples" / "ci").glob("*.yml"))


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def texts(data: Any) -> Iterator[str]:
    """All scripts and commands in a document."""
    if isinstance(data, dict):
        for key, value in data.items():
            if key in {"run", "script", "before_script"}:
                yield from [value] if isinstance(value, str) else value
            else:
                yield from texts(value)
    elif isinstance(data, list):
        for item in data:
            yield from texts(item)


def flags(command: str) -> set[str]:
    found = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    return {option for parameter in found.params for option in parameter.opts}


def step(name: str) -> dict[str, Any]:
    return next(step for step in loaded(ACTION)["runs"]["steps"] if step.get("name") == name)


def run(script: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a step's script, with programs that write down what they are asked in the place of the real ones."""
    for program in ("mmtrt", "python"):
        fake = folder / "bin" / program
        fake.parent.mkdir(exist_ok=True)
        fake.write_text(f'#!/usr/bin/env bash\nprintf "%s\\0" "$@" >{folder}/{program}.asked\nexit "${{CODE:-0}}"\n')
        fake.chmod(0o755)
    return subprocess.run(
        ["/bin/bash", "-c", script],
        cwd=folder,
        env={"PATH": f"{folder}/bin:{os.environ['PATH']}", "GITHUB_OUTPUT": str(folder / "output"), **env},
        capture_output=True,
        text=True,
        check=False,
    )


def asked(folder: Path, program: str = "mmtrt") -> list[str]:
    return (folder / f"{program}.asked").read_text().split("\0")[:-1]


CHECK = {
    "CANDIDATE": "build/a b.onnx",
    "AGAINST": "rec",
    "SAMPLES": "",
    "BUDGET": "",
    "HEAD": "",
    "STRESS": "",
    "BASELINE": "",
    "JUNIT": "out/junit.xml",
    "RESULT": "out/check.json",
    "TIME_LIMIT": "60",
}


@pytest.mark.parametrize("path", [ACTION, *EXAMPLES], ids=lambda path: path.name)
def test_each_flag_is_one_that_there_is(path: Path) -> None:
    scripts = list(texts(loaded(path)))
    used = {flag for script in scripts for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", script)}
    assert used <= flags("check")
    assert any("mmtrt" in script for script in scripts) or "uses: OWNER/mmtrt" in path.read_text()


def test_the_example_gives_the_action_inputs_that_it_has() -> None:
    (workflow,) = [path for path in EXAMPLES if path.name == "github-workflow.yml"]
    steps = loaded(workflow)["jobs"]["parity"]["steps"]
    (given,) = [step["with"] for step in steps if step.get("uses", "").startswith("OWNER/mmtrt")]
    inputs = loaded(ACTION)["inputs"]
    assert given.keys() <= inputs.keys()
    assert {name for name, told in inputs.items() if told.get("required")} <= given.keys()


def test_no_input_stands_in_a_script() -> None:
    action = loaded(ACTION)
    assert not [script for script in texts(action) if "${{" in script]
    given = {
        value for step in action["runs"]["steps"] for value in {**step.get("env", {}), **step.get("with", {})}.values()
    }
    named = {f"${{{{ inputs.{name} }}}}" for name in action["inputs"]}
    assert named <= given
    # Each value of the environment is one that the script reads, and the other way around.
    assert step("Check")["env"].keys() == CHECK.keys()


@pytest.mark.skipif(sys.platform != "linux", reason="bash, as on a runner")
def test_what_an_input_holds_is_no_command(tmp_path: Path) -> None:
    odd = "$(touch pwned) `touch pwned`; touch pwned"
    env = {**CHECK, "CANDIDATE": "--help", "AGAINST": odd, "SAMPLES": odd, "BUDGET": f"sqnr_db=3\n{odd}\n"}
    done = run(
        step("Check")["run"], tmp_path, **{**env, "HEAD": "answer=classes", "STRESS": "corner\nmasked", "CODE": "1"}
    )
    assert done.returncode == 1, done.stderr
    assert not (tmp_path / "pwned").exists()
    assert asked(tmp_path)[0] == "check"
    assert asked(tmp_path)[-2:] == ["--", "--help"]
    assert f"--against={odd}" in asked(tmp_path)
    assert f"--samples={odd}" in asked(tmp_path)
    assert [a for a in asked(tmp_path) if a.startswith("--budget=")] == ["--budget=sqnr_db=3", f"--budget={odd}"]
    assert {"--head=answer=classes", "--stress=corner", "--stress=masked"} <= set(asked(tmp_path))
    assert (tmp_path / "output").read_text() == "exit-code=1\nresult=out/check.json\n"


@pytest.mark.skipif(sys.platform != "linux", reason="bash, as on a runner")
def test_what_is_installed_is_a_version_or_the_action_itself(tmp_path: Path) -> None:
    script = step("Install mmtrt")["run"]
    sides = {"CANDIDATE": "a.onnx", "AGAINST": "a.record"}
    assert run(script, tmp_path, EXTRAS="onnx,rtx", VERSION="", SOURCE="/where it is", **sides).returncode == 0
    assert asked(tmp_path, "python")[3:] == ["/where it is[onnx,rtx]"]
    assert run(script, tmp_path, EXTRAS="onnx", VERSION="1.2.0rc1", SOURCE="", **sides).returncode == 0
    assert asked(tmp_path, "python")[3:] == ["mmtrt[onnx]==1.2.0rc1"]
    for extras, version in (("onnx] x[", ""), ("onnx", "1 --index-url http://x"), ("$(touch pwned)", "")):
        assert run(script, tmp_path, EXTRAS=extras, VERSION=version, SOURCE="", **sides).returncode == 2
    assert not (tmp_path / "pwned").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="bash, as on a runner")
@pytest.mark.parametrize(
    ("candidate", "against", "extras", "installed"),
    [
        ("a.onnx", "zoo:vqa-early", "onnx", "onnx,zoo"),
        ("zoo:vqa-early", "a.record", "onnx", "onnx,zoo"),
        ("a.onnx", "a.record", "onnx,zoo", "onnx,zoo"),
    ],
)
def test_a_model_of_the_zoo_brings_its_weights(
    tmp_path: Path, candidate: str, against: str, extras: str, installed: str
) -> None:
    script = step("Install mmtrt")["run"]
    given = {"CANDIDATE": candidate, "AGAINST": against, "EXTRAS": extras, "SOURCE": str(ROOT)}
    assert run(script, tmp_path, VERSION="", **given).returncode == 0
    source, weights = asked(tmp_path, "python")[3:]
    assert source == f"{ROOT}[{installed}]"
    assert 'name = "mmtrt-zoo"' in (Path(weights) / "pyproject.toml").read_text(encoding="utf-8")
    assert run(script, tmp_path, VERSION="1.2.0", **given).returncode == 0
    assert asked(tmp_path, "python")[3:] == [f"mmtrt[{installed}]==1.2.0"]


def test_the_guide_speaks_of_flags_and_files_that_there_are() -> None:
    text = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
    theirs = {"--save-outputs", "--save-inputs"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - theirs <= flags("check") | flags("record")
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (ROOT / "docs" / link.partition("#")[0]).exists(), link
    rows = set(re.findall(r"`([a-z-]+)`", "".join(line for line in text.splitlines() if line.startswith("| `"))))
    assert loaded(ACTION)["inputs"].keys() <= rows
