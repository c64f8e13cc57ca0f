from __future__ import annotations

import errno
import math
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmtrt import artifacts
from mmtrt.artifacts import (
    StageCache,
    code_digest,
    directory_digest,
    file_digest,
    json_text,
    key_of,
    machine_errors,
    mmtrt_digest,
    place,
    read_json,
    whole_directory,
    whole_file,
    write_json,
)
from mmtrt.errors import InputError, MachineError

SOURCE = str(Path(artifacts.__file__).parents[1])
SLEEP = "print('ready', flush=True); import time; time.sleep(60)"


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Begin a process that imports this mmtrt."""
    lines = f"import sys\nfrom pathlib import Path\nfrom mmtrt.artifacts import *\n{code}"
    return subprocess.Popen(
        [sys.executable, "-c", lines, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": SOURCE},
        stdout=subprocess.PIPE,
        text=True,
    )


def killed_at_ready(code: str, *arguments: object) -> int:
    """Run until it says that it is ready, kill it, and return its process id."""
    process = python(code, *arguments)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.kill()
    process.communicate()
    return process.pid


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob(".*.part"))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# ----------------------------------------------------------------------------------------------------- digests


def test_a_file_s_digest_is_that_of_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"abc")
    assert file_digest(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("name", ["missing", "."])
def test_what_can_t_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="can't read"):
        file_digest(tmp_path / name)
    with pytest.raises(InputError, match="can't read"):
        read_json(tmp_path / name)


def test_a_folder_s_digest_tells_names_and_bytes(tmp_path: Path) -> None:
    def made(name: str, files: dict[str, str]) -> str:
        folder = tmp_path / name
        for file, text in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(text, encoding="utf-8")
        return directory_digest(folder)

    one = made("1", {"a": "x", "b/c": "y"})
    assert made("2", {"b/c": "y", "a": "x"}) == one, "wherever it stands, in whatever order it was written"
    assert len({one, made("3", {"a": "y", "b/c": "x"}), made("4", {"a": "x", "b": "y"}), made("5", {"a": "x"})}) == 4
    assert directory_digest(tmp_path / "1", "c") == directory_digest(tmp_path / "2", "c")
    assert directory_digest(tmp_path / "1", "a") != one


def test_the_code_beside_a_file_counts(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("a = 1", encoding="utf-8")
    before = code_digest(tmp_path / "a.py")
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    assert code_digest(tmp_path / "a.py") == before
    (tmp_path / "b.py").write_text("b = 1", encoding="utf-8")
    assert code_digest(tmp_path / "a.py") != before
    assert len(mmtrt_digest()) == 64


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_the_order_of_keys_does_not_matter(data: dict[str, Any]) -> None:
    assert key_of(data) == key_of(dict(reversed(list(data.items()))))
    assert key_of(data) != key_of({**data, "one more\0": 1})


def test_nan_has_no_key_and_no_json() -> None:
    with pytest.raises(ValueError, match="JSON"):
        key_of({"x": math.nan})
    with pytest.raises(ValueError, match="JSON"):
        json_text({"x": math.inf})
    assert json_text({"b": "ü", "a": 1}) == '{\n  "b": "ü",\n  "a": 1\n}'


def test_names_that_are_no_unicode_have_a_key() -> None:
    assert key_of({"path": os.fsdecode(b"\xff.onnx")})


# ------------------------------------------------------------------------------------------------- whole files


def test_a_file_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "file"
    with whole_file(target) as part:
        assert part.parent == target.parent
        part.write_text("all", encoding="utf-8")
        assert not target.exists()
    assert target.read_text(encoding="utf-8") == "all"
    assert names(target.parent) == {"file"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "file"
    target.write_text("old", encoding="utf-8")

    def write() -> None:
        with whole_file(target) as part:
            part.write_text("ne", encoding="utf-8")
            raise error

    with pytest.raises(error):
        write()
    assert target.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == {"file"}


def test_a_kill_leaves_the_old_file_and_the_next_writer_sweeps(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old", encoding="utf-8")
    pid = killed_at_ready(f"with whole_file(Path(sys.argv[1])) as part:\n part.write_text('ne'); {SLEEP}", target)
    assert target.read_text(encoding="utf-8") == "old"
    assert [str(pid) in part.name for part in parts(tmp_path)] == [True]

    write_json(target, {"new": 1})
    assert names(tmp_path) == {"file"}
    assert read_json(target) == {"new": 1}


def test_a_kill_leaves_the_old_folder_and_the_next_writer_sweeps(tmp_path: Path) -> None:
    target = tmp_path / "set"
    target.mkdir()
    (target / "old").touch()
    killed_at_ready(f"with whole_directory(Path(sys.argv[1])) as part:\n (part / 'half').touch(); {SLEEP}", target)
    assert names(target) == {"old"}
    assert len(parts(tmp_path)) == 1

    with whole_directory(target) as part:
        (part / "new").touch()
    assert names(tmp_path) == {"set"}
    assert names(target) == {"new"}


def test_the_part_of_a_living_process_stays(tmp_path: Path) -> None:
    target = tmp_path / "file"
    process = python(f"with whole_file(Path(sys.argv[1])) as part:\n {SLEEP}", target)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        with whole_file(target) as part:
            part.write_text("ours", encoding="utf-8")
        assert [str(process.pid) in left.name for left in parts(tmp_path)] == [True]
    finally:
        process.kill()
        process.communicate()


def test_what_no_dead_process_of_ours_left_stays(tmp_path: Path) -> None:
    dead = killed_at_ready(SLEEP)
    others = {
        f".file.{dead}.{os.getpid()}.00c0ffee.part",  # The living part of a file named `file.<number>`.
        f".file.{dead}.part",
        ".file.99999999999999999999.00c0ffee.part",
        f"file.{dead}.00c0ffee.part",
    }
    # Another stage's or another run's is swept too: nobody may ever come by with its name again.
    for name in [*others, f".file.{dead}.00c0ffee.part", f".other.onnx.{dead}.00c0ffee.part"]:
        (tmp_path / name).touch()
    write_json(tmp_path / "file", 1)
    assert names(tmp_path) == {*others, "file"}


def test_a_part_that_may_not_be_removed_harms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / f".file.{killed_at_ready(SLEEP)}.00c0ffee.part"
    left.touch()
    unlink = Path.unlink

    def refuse(path: Path, *, missing_ok: bool = False) -> None:
        if path == left:
            raise PermissionError(errno.EPERM, "not yours")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    write_json(tmp_path / "file", 1)
    assert names(tmp_path) == {left.name, "file"}


def test_another_user_s_process_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, number: int) -> None:
        raise PermissionError(errno.EPERM, "not yours")

    monkeypatch.setattr(os, "kill", refuse)
    assert artifacts._alive(1)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write_json(tmp_path / "file", 1)
        with whole_directory(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode
    assert (tmp_path / "folder").stat().st_mode & 0o777 == mode | (mode >> 2 & 0o111)


@pytest.fixture
def little(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["/usr/bin/env", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"mounting is not possible: {done.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["/usr/bin/env", "umount", disk], check=True)


def test_a_full_disk_is_the_machine_s(little: Path) -> None:
    write_json(little / "file", "old")
    with pytest.raises(MachineError, match="disk is full") as caught, whole_file(little / "file") as part:
        part.write_bytes(bytes(1 << 20))
    assert caught.value.exit_code == 4
    assert str(little / "file") in caught.value.message
    with pytest.raises(MachineError, match="disk is full"), whole_directory(little / "folder") as part:
        (part / "big").write_bytes(bytes(1 << 20))
    with pytest.raises(MachineError, match="disk is full"):
        StageCache(little / "cache").run("x", {}, lambda folder: _fill(folder / "big"))
    assert read_json(little / "file") == "old"
    assert parts(little) == []
    assert not any(path.is_file() for path in (little / "cache").rglob("*"))


def _fill(path: Path) -> None:
    path.write_bytes(bytes(1 << 20))


def test_a_limit_on_file_sizes_is_the_machine_s(tmp_path: Path) -> None:
    code = f"""
import resource, signal
from mmtrt.errors import MmtrtError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({1 << 16}, {resource.RLIM_INFINITY}))
try:
    with whole_file(Path(sys.argv[1])) as part:
        part.write_bytes(bytes(1 << 20))
except MmtrtError as error:
    print(error.message)
    sys.exit(error.exit_code)
"""
    process = python(code, tmp_path / "file")
    text, _ = process.communicate()
    assert process.returncode == 4
    assert "disk is full" in text
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    "number", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST]
)
def test_a_place_that_can_t_be_written_is_the_machine_s(number: int) -> None:
    with pytest.raises(MachineError, match="can't write it") as caught, machine_errors("it"):
        raise OSError(number, os.strerror(number))
    assert os.strerror(number) in caught.value.message
    assert isinstance(caught.value.__cause__, OSError)


def test_other_errors_of_the_system_stay_what_they_are() -> None:
    with pytest.raises(ConnectionRefusedError), machine_errors("it"):
        raise ConnectionRefusedError(errno.ECONNREFUSED, "no")


def test_what_is_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(MachineError, match="can't write"):
        write_json(tmp_path / "file" / "below", 1)
    with pytest.raises(MachineError, match="can't write"):
        write_json(tmp_path / "folder", 1)
    with pytest.raises(MachineError, match="can't write"), whole_directory(tmp_path / "file"):
        pass
    assert names(tmp_path) == {"file", "folder"}


# ----------------------------------------------------------------------------------------------- whole folders


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_takes_the_old_one_s_place(tmp_path: Path, there: bool) -> None:
    target = tmp_path / "set"
    if there:
        target.mkdir()
        (target / "old").touch()
    with whole_directory(target) as part:
        (part / "inner").mkdir()
        (part / "inner" / "new").touch()
        (part / "link").symlink_to("nowhere")
        assert target.exists() == there
    assert [path.name for path in sorted(target.rglob("*"))] == ["inner", "new", "link"]
    assert names(tmp_path) == {"set"}


def test_an_error_leaves_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "set"
    target.mkdir()
    (target / "old").touch()

    def write() -> None:
        with whole_directory(target) as part:
            (part / "half").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert names(target) == {"old"}
    assert names(tmp_path) == {"set"}


def test_the_old_folder_comes_back_where_the_new_one_can_t_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "set"
    target.mkdir()
    (target / "old").touch()
    replace = Path.replace

    def fail(path: Path, to: Path) -> Path:
        if to == target and not (path / "old").exists():
            raise OSError(errno.ENOSPC, "full")
        return replace(path, to)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(MachineError, match="disk is full"), whole_directory(target) as part:
        (part / "new").touch()
    assert names(target) == {"old"}
    assert names(tmp_path) == {"set"}


def test_a_link_to_a_folder_is_refused_and_its_target_untouched(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "old").touch()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(MachineError, match="can't write"), whole_directory(tmp_path / "link"):
        pass
    assert names(tmp_path / "real") == {"old"}


# -------------------------------------------------------------------------------------------------------- JSON


def test_broken_json_is_an_input_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for data in (b"{", b"\xff"):
        file.write_bytes(data)
        with pytest.raises(InputError, match="is no JSON"):
            read_json(file)


def test_refused_json_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "file", [1])
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "file", [math.nan])
    assert read_json(tmp_path / "file") == [1]
    assert names(tmp_path) == {"file"}


def test_placing_copies_what_differs_only(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "there" / "target"
    source.write_text("one", encoding="utf-8")
    assert place(source, target) == target
    before = target.stat().st_ino
    place(source, target)
    place(target, target)
    assert target.stat().st_ino == before, "the same bytes are left as they are"
    source.write_text("two", encoding="utf-8")
    place(source, target)
    assert target.read_text(encoding="utf-8") == "two"


# ------------------------------------------------------------------------------------------------------- cache


def writes(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "result").write_text(text, encoding="utf-8") and None


def never(folder: Path) -> None:
    raise AssertionError("it was there already")


def test_a_stage_runs_once(tmp_path: Path) -> None:
    cache = StageCache(tmp_path)
    folder, hit = cache.run("stage", {"a": 1}, writes("x"))
    assert not hit
    assert cache.run("stage", {"a": 1}, never) == (folder, True)
    assert (folder / "result").read_text(encoding="utf-8") == "x"


def test_each_part_is_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = StageCache(tmp_path)
    calls = [("stage", {"a": 1, "b": [1]}), ("stage", {"a": 2, "b": [1]}), ("stage", {"a": 1, "b": [2]})]
    calls += [("stage", {"a": 1}), ("other", {"a": 1, "b": [1]})]
    folders = [cache.run(stage, given, writes("x"))[0] for stage, given in calls]
    monkeypatch.setattr(artifacts, "mmtrt_digest", lambda: "a newer mmtrt")
    folders.append(cache.run(*calls[0], writes("x"))[0])
    assert len(set(folders)) == 6


def test_failed_work_is_no_hit(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        (folder / "half").touch()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        StageCache(tmp_path).run("stage", {}, fails)
    folder, hit = StageCache(tmp_path).run("stage", {}, writes("x"))
    assert not hit
    assert names(folder) == {"result"}
    assert names(folder.parent) == {folder.name}


def test_killed_work_is_no_hit(tmp_path: Path) -> None:
    killed_at_ready(
        f"def work(folder):\n (folder / 'half').touch(); {SLEEP}\n"
        "StageCache(Path(sys.argv[1])).run('stage', {}, work)",
        tmp_path,
    )
    assert len(parts(tmp_path / "stage")) == 1
    folder, hit = StageCache(tmp_path).run("stage", {}, writes("x"))
    assert not hit
    assert names(folder) == {"result"}
    assert names(folder.parent) == {folder.name}


def test_two_processes_at_once_both_have_it(tmp_path: Path) -> None:
    code = """
def work(folder):
    (folder / 'result').write_text('x')
    print('ready', flush=True)
    sys.stdin.readline()
folder, hit = StageCache(Path(sys.argv[1])).run('stage', {}, work)
assert (folder / 'result').read_text() == 'x'
"""
    lines = f"import sys\nfrom pathlib import Path\nfrom mmtrt.artifacts import *\n{code}"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", lines, str(tmp_path)],
            env={**os.environ, "PYTHONPATH": SOURCE},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.communicate("\n")
    assert [process.returncode for process in both] == [0, 0]
    assert parts(tmp_path / "stage") == []
    assert len(names(tmp_path / "stage")) == 1


def test_a_finished_stage_is_not_taken_away_from_its_user(tmp_path: Path) -> None:
    cache = StageCache(tmp_path)

    def meanwhile(part: Path) -> None:
        kept.append(cache.run("stage", {}, writes("first"))[0].stat().st_ino)
        writes("second")(part)

    kept: list[int] = []
    folder, hit = cache.run("stage", {}, meanwhile)
    assert not hit
    assert [folder.stat().st_ino] == kept
    assert (folder / "result").read_text(encoding="utf-8") == "first"


def test_threads_do_not_sweep_each_other(tmp_path: Path) -> None:
    started, go = threading.Event(), threading.Event()

    def slow(folder: Path) -> None:
        started.set()
        go.wait(20)
        writes("x")(folder)

    thread = threading.Thread(target=StageCache(tmp_path).run, args=("stage", {"a": 1}, slow))
    thread.start()
    started.wait(20)
    StageCache(tmp_path).run("stage", {"a": 1}, writes("x"))
    go.set()
    thread.join()
    assert StageCache(tmp_path).run("stage", {"a": 1}, never)[1]


def test_a_folder_that_can_t_be_renamed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, to: Path) -> Path:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(MachineError, match="disk is full"):
        StageCache(tmp_path).run("stage", {}, writes("x"))


def test_no_root_keeps_nothing(tmp_path: Path) -> None:
    code = """
def work(folder):
    (folder / 'result').write_text('x')
cache = StageCache(None)
first, hit = cache.run('stage', {}, work)
second, again = cache.run('stage', {}, work)
assert first != second and not hit and not again and (first / 'result').read_text() == 'x'
print(first, second)
"""
    text, _ = python(code).communicate()
    assert len(text.split()) == 2
    assert not any(Path(name).exists() for name in text.split()), "it goes with the process"


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMTRT_CACHE_DIR", "/somewhere")
    assert StageCache.default().root == Path("/somewhere")
    monkeypatch.delenv("MMTRT_CACHE_DIR")
    assert StageCache.default().root == Path.home() / ".cache" / "mmtrt"
