"""What the machine refuses: no TensorRT, no room, no right to write, closed streams; nothing is half-written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Mmtrt = Callable[..., "subprocess.CompletedProcess[str]"]


def without(folder: Path, *packages: str) -> str:
    """Return a PYTHONPATH that makes these packages missing, in child processes too."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "class Blocker:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {packages!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Blocker())\n"
    )
    return os.pathsep.join([str(folder), os.environ["PYTHONPATH"]])


def test_no_tensorrt(mmtrt: Mmtrt, tiny: Path, tmp_path: Path) -> None:
    path = without(tmp_path / "block", "tensorrt", "tensorrt_rtx", "tensorrt_bindings")
    said = mmtrt("build", tiny, "-o", "made", PYTHONPATH=path)
    assert said.returncode == 4, said.stderr
    assert "no TensorRT" in said.stderr
    assert "pip install" in said.stderr
    assert "mmtrt[rtx]" in said.stderr
    assert not (tmp_path / "made").exists()
    told = json.loads(mmtrt("doctor", "--json", PYTHONPATH=path).stdout)
    assert any("pip install" in (row["fix"] or "") for row in told["findings"])


@pytest.mark.parametrize(
    ("package", "extra", "command"),
    [("torch", "mmtrt[export]", ("export", "tiny_fusion:factory")), ("onnx", "mmtrt[onnx]", ("inspect",))],
)
def test_an_extra_is_missing(
    mmtrt: Mmtrt, tiny: Path, tmp_path: Path, package: str, extra: str, command: tuple[str, ...]
) -> None:
    given = command if len(command) > 1 else (*command, tiny)
    said = mmtrt(*given, PYTHONPATH=without(tmp_path / "block", package))
    assert said.returncode == 4, said.stderr
    assert package in said.stderr
    assert extra in said.stderr


def test_folders_that_can_not_be_written(mmtrt: Mmtrt, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for output in ("file", "file/inner", "/proc/nowhere"):
        said = mmtrt("build", tiny, "-o", output)
        assert said.returncode == 4, said.stderr
        assert output in said.stderr
    assert (tmp_path / "file").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("cache", ["file", "/proc/nowhere"])
def test_cache_that_can_not_be_written(mmtrt: Mmtrt, tiny: Path, tmp_path: Path, cache: str) -> None:
    (tmp_path / "file").write_text("mine")
    said = mmtrt("build", tiny, "-o", "made", MMTRT_CACHE_DIR=cache)
    assert said.returncode == 4, said.stderr
    assert cache in said.stderr
    assert "MMTRT_CACHE_DIR" in said.stderr
    assert not (tmp_path / "made").exists()


# ------------------------------------------------------------------------------------------------------ full disk

LIMITED = (
    "import resource, runpy, sys\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))\n"
    "sys.argv[0] = 'mmtrt'\n"
    "runpy.run_module('mmtrt', run_name='__main__')\n"
)


def test_no_room_for_the_engine(tiny: Path, tmp_path: Path) -> None:
    # Larger than the ONNX, smaller than the engine: the builder's process meets the limit.
    said = subprocess.run(
        [sys.executable, "-c", LIMITED.format(200_000), "build", str(tiny), "-o", "made"],
        cwd=tmp_path,
        env={**os.environ, "MMTRT_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 4, said.stderr
    assert "full" in said.stderr
    assert "engine" in said.stderr
    assert not (tmp_path / "made").exists()
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() or path.suffix == ".part"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    tool = shutil.which("mount")
    if tool is None:
        pytest.skip("there is no mount command")
    command = [tool, "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small disk can't be mounted: {mounted.stderr.strip()}")
    yield disk
    subprocess.run([tool.replace("mount", "umount"), str(disk)], check=True)


def test_no_room_for_what_is_published(mmtrt: Mmtrt, tiny: Path, small_disk: Path) -> None:
    said = mmtrt("build", tiny, "-o", small_disk)
    assert said.returncode == 4, said.stderr
    assert "full" in said.stderr
    assert "tiny.engine" in said.stderr
    assert not list(small_disk.iterdir())


# -------------------------------------------------------------------------------------------------------- streams


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which `$mmtrt` is the command; the exit code is that of the pipe's first command."""
    script = f"set -o pipefail; mmtrt='{sys.executable} -m mmtrt'; {line}; exit ${{PIPESTATUS[0]}}"
    return subprocess.run(
        [str(shutil.which("bash")), "-c", script], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("line", ["$mmtrt inspect gone.onnx --json | true", "$mmtrt doctor | true"])
def test_a_reader_that_goes_away_is_no_bug(tmp_path: Path, line: str) -> None:
    said = shell(line, tmp_path)
    # A reader that is gone by then is SIGPIPE's 141; one that is still there when the pipe is filled sees all of it.
    assert said.returncode in {141, 3 if "gone" in line else 0}
    assert "Traceback" not in said.stderr
    assert "BrokenPipe" not in said.stderr


def test_head_of_a_document(tmp_path: Path) -> None:
    said = shell("$mmtrt doctor --json | head -1", tmp_path)
    assert said.stdout == "{\n"
    assert said.returncode in {0, 141}
    assert "Traceback" not in said.stderr


def test_a_verdict_is_kept_without_streams(tiny: Path, tmp_path: Path) -> None:
    budget = "--budget max_abs=-1 --no-cache"
    said = shell(f"$mmtrt check {tiny} --against {tiny} {budget} <&- >&- 2>&-", tmp_path)
    assert said.returncode == 1


def test_full_stdout_is_told(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    said = shell("$mmtrt doctor > /dev/full", tmp_path)
    assert said.returncode == 4
    assert "space" in said.stderr
