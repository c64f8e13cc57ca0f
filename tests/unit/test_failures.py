from __future__ import annotations

import errno
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.text import Text

from mmtrt import errors
from mmtrt.artifacts import StageCache
from mmtrt.cli.failures import explain_failure, interrupted
from mmtrt.cli.show import Show
from mmtrt.errors import MachineError, MmtrtError, RecipeError

SOURCE = str(Path(errors.__file__).parents[1])
Explain = Callable[..., tuple[int, str, dict[str, Any] | None]]


@pytest.fixture
def explain(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Explain:
    """Explain an error: its exit code, the words on stderr, the document on stdout."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def run(error: BaseException, *flags: str) -> tuple[int, str, dict[str, Any] | None]:
        monkeypatch.setattr(sys, "argv", ["mmtrt", "check", "a.onnx", *flags])
        code = explain_failure(error)
        out, err = capsys.readouterr()
        return code, err, json.loads(out) if out else None

    return run


@pytest.mark.parametrize("name", [n for n in errors.__all__ if n.endswith("Error") and n != "MmtrtError"])
def test_each_kind_has_its_exit_code(explain: Explain, name: str) -> None:
    kind = getattr(errors, name)
    code, told, document = explain(kind("it failed", fix="Mend it."))
    assert code == kind.exit_code
    assert told == "mmtrt: it failed\n  Mend it.\n"
    assert document is None


@pytest.mark.parametrize("fix", ["Mend it.", None])
def test_json_is_one_document_on_stdout(explain: Explain, fix: str | None) -> None:
    code, told, document = explain(RecipeError("ü failed", fix=fix), "--json")
    assert document == {"schema": "mmtrt.error/1", "error": "ü failed", "fix": fix, "exit_code": 2}
    assert code == 2
    assert told.startswith("mmtrt: ü failed\n")


def test_what_a_terminal_would_obey_is_shown(explain: Explain) -> None:
    _, told, document = explain(RecipeError("node \x1b]0;owned\x07\nis none", fix="\x9b2J"), "--json")
    assert told == "mmtrt: node \\x1b]0;owned\\x07\nis none\n  \\x9b2J\n"
    assert document is not None
    assert document["error"] == "node \x1b]0;owned\x07\nis none"


def test_names_that_are_no_unicode_are_told() -> None:
    code = """
import os, sys
from mmtrt.cli.failures import explain_failure
from mmtrt.errors import InputError
sys.exit(explain_failure(InputError(f"can't read {os.fsdecode(b'x' + bytes([255]))}")))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "--json"],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": SOURCE},
        check=False,
    )
    assert done.returncode == 3
    assert json.loads(done.stdout)["error"] == "can't read " + os.fsdecode(b"x\xff")
    assert b"can't read x" in done.stderr


@pytest.mark.parametrize("error", [KeyError("x"), MmtrtError("a bare one"), RecursionError()])
def test_a_bug_leaves_its_traceback_in_a_file(explain: Explain, error: Exception) -> None:
    try:
        raise error
    except type(error) as caught:
        code, told, document = explain(caught, "--json")
    assert code == 70
    assert document is not None
    assert document["exit_code"] == 70
    found = re.search(r"The traceback is in (\S+): please report it", told)
    assert found
    text = Path(found[1]).read_text(encoding="utf-8")
    assert "mmtrt check a.onnx" in text
    assert "Traceback" in text
    assert type(error).__name__ in text


def test_where_no_file_can_be_written_the_traceback_is_told(explain: Explain, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(tempfile, "mkstemp", full)
    code, told, _ = explain(KeyError("x"))
    assert code == 70
    assert "KeyError: 'x'" in told.split("The traceback is")[1]


def test_errors_of_the_system_are_the_machine_s(explain: Explain) -> None:
    code, told, _ = explain(OSError(errno.ENOSPC, "No space left on device", "/x/y"))
    assert code == 4
    assert "No space left on device: /x/y" in told
    assert explain(OSError(errno.EIO, "broken"))[1].startswith("mmtrt: broken: a file")
    assert explain(MemoryError())[0] == 4
    assert explain(OSError("words alone"))[0] == 70


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SystemExit(3), 3),
        (SystemExit(), 0),
        (SystemExit("words"), 1),
        (typer.Exit(1), 1),
        (typer.Exit(), 0),
    ],
)
def test_an_exit_keeps_its_code(explain: Explain, error: BaseException, code: int) -> None:
    assert explain(error)[0] == code


def test_the_words_of_an_exit_are_told(explain: Explain) -> None:
    assert explain(SystemExit("words"))[1] == "mmtrt: words\n"


@pytest.mark.parametrize(
    ("module", "code", "told"),
    [("torch", 4, "mmtrt[export]"), ("onnx.helper", 4, "mmtrt[onnx]"), ("no_such_module", 70, "a bug of ours")],
)
def test_a_library_that_is_missing_is_the_machine_s(explain: Explain, module: str, code: int, told: str) -> None:
    given, err, _ = explain(ModuleNotFoundError("no", name=module))
    assert given == code
    assert told in err


def test_an_exit_that_stands_for_a_reader_s_leaving_is_that() -> None:
    code = """
import sys
from mmtrt.cli.failures import explain_failure
try:
    try:
        raise BrokenPipeError
    except BrokenPipeError:
        sys.exit(1)
except SystemExit as error:
    sys.exit(explain_failure(error))
"""
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": SOURCE}, check=False)
    assert done.returncode == 141


def test_an_error_s_document_that_nobody_reads_is_no_other_error() -> None:
    code = """
import sys
from mmtrt.cli.failures import explain_failure
from mmtrt.errors import InputError
sys.exit(explain_failure(InputError("it failed")))
"""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", code, "--json"],
        stdout=writing,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": SOURCE},
        text=True,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (3, "mmtrt: it failed\n")


def test_a_wrong_command_line_exits_2(explain: Explain) -> None:
    code, told, document = explain(typer.BadParameter("no such flag"), "--json")
    assert code == 2
    assert "no such flag" in told
    assert document is not None
    assert document["exit_code"] == 2


def test_a_wrong_command_line_names_its_help(explain: Explain) -> None:
    app = typer.Typer()
    app.command()(lambda: None)
    with pytest.raises(Exception, match="zzz") as caught:
        typer.main.get_command(app).main(["--zzz"], prog_name="mmtrt", standalone_mode=False)
    code, told, _ = explain(caught.value)
    assert code == 2
    assert "Try 'mmtrt --help'." in told


def test_ctrl_c_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert interrupted() == 130
    assert "run it again" in capsys.readouterr().err


def test_a_reader_that_went_away_got_no_verdict() -> None:
    code = """
import sys
from mmtrt.cli.failures import explain_failure
from mmtrt.cli.show import Show
stdout = sys.stdout
try:
    Show(json=True, quiet=True).result({"verdict": "fail"}, None)
except BaseException as error:
    sys.stdout = stdout
    sys.exit(explain_failure(error))
"""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=writing,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": SOURCE},
        text=True,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 141
    assert done.stderr == ""


# -------------------------------------------------------------------------------------------------------- show


def test_progress_and_notes_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    show = Show(json=False, quiet=False)
    show.stage("calibrating")
    show.note("few samples")
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"\[ +\d+\.\d s\] calibrating\nnote: few samples\n", err)


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    show = Show(json=False, quiet=True)
    show.stage("calibrating")
    show.note("few samples")
    assert capsys.readouterr() == ("", "")


def test_a_result_is_one_document_and_nothing_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    show = Show(json=True, quiet=False)
    print("a factory's chatter")  # noqa: T201
    show.result({"name": "ü", "x": 1}, Text("table"))
    out, err = capsys.readouterr()
    assert json.loads(out) == {"name": "ü", "x": 1}
    assert err == "a factory's chatter\n"


def test_a_result_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    Show(json=False, quiet=False).result({}, Text("w" * 150))
    assert capsys.readouterr().out == "w" * 150 + "\n", "a pipe is wide enough for a table"


def test_on_a_terminal_there_is_a_spinner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setenv("TERM", "xterm")
    show = Show(json=True, quiet=False)
    show.stage("calibrating")
    show.stage("building")
    show.result({}, Text(""))
    show.done()
    assert "\x1b[?25l" in terminal.getvalue(), "the cursor goes"
    assert terminal.getvalue().rindex("\x1b[?25h") > terminal.getvalue().rindex("\x1b[?25l"), "and comes back"
    assert capsys.readouterr().out == "{}\n"


def test_the_context_has_the_cache_or_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MMTRT_CACHE_DIR", str(tmp_path / "new"))
    show = Show(json=False, quiet=True)
    assert show.context().cache == StageCache(tmp_path / "new")
    assert (tmp_path / "new").is_dir()
    assert show.context(no_cache=True).cache == StageCache(None)
    assert show.context().note == show.note
    (tmp_path / "file").touch()
    monkeypatch.setenv("MMTRT_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(MachineError, match="can't be used") as caught:
        show.context()
    assert "MMTRT_CACHE_DIR" in str(caught.value.fix)
