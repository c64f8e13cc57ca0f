"""What opens a bundle is bounded in memory and time, and holds what it read against what it verified."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
from bundle_parts import folder_of, parts
from fuzz_base import contents, manifest_of, packed

from mmtrt.bundle import opening, reading
from mmtrt.bundle.archive import Member, members, sealed
from mmtrt.bundle.canonical import BUNDLE_BYTES, header, seal_of
from mmtrt.bundle.opening import unpack, verify
from mmtrt.errors import InputError, MachineError

# ------------------------------------------------------------------------------------------------- sizes and memory

BOUNDED = """
import resource, sys
from pathlib import Path
from mmtrt.bundle.opening import verify
from mmtrt.errors import InputError
limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + (64 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    verify(Path(sys.argv[1]))
except InputError as error:
    print(error)
"""


def in_bounds(path: Path) -> str:
    done = subprocess.run([sys.executable, "-c", BOUNDED, path], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


@pytest.mark.parametrize("name", ["bundle.json", "bundle.sig"])
@pytest.mark.parametrize("tar", [True, False])
def test_a_manifest_of_gigabytes_is_refused_by_its_size(tmp_path: Path, name: str, tar: bool) -> None:
    size = 7 << 30
    if tar:
        path = tmp_path / "vqa.mmtrt"
        first = b"" if name == "bundle.json" else parts(contents())[0]
        with path.open("wb") as stream:
            stream.write(seal_of("0" * 64) + first + header(name, size))
            stream.truncate(stream.tell() + size)
    else:
        path = folder_of(tmp_path)
        with (path / name).open("wb") as stream:
            stream.truncate(size)
    assert f"its {name} has {size} bytes, more than" in in_bounds(path)


def test_a_large_file_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "vqa.mmtrt"
    with path.open("wb") as stream:
        stream.write(seal_of("0" * 64))
        stream.truncate(96 << 20)
    assert "it was altered" in in_bounds(path)


@pytest.mark.parametrize("tar", [True, False])
def test_a_sparse_file_of_terabytes_is_refused_at_once(tmp_path: Path, tar: bool) -> None:
    path = tmp_path / "vqa.mmtrt" if tar else folder_of(tmp_path)
    if tar:
        path.write_bytes(seal_of("0" * 64))
    with (path if tar else path / "models" / "int8.onnx").open("r+b") as stream:
        stream.truncate(BUNDLE_BYTES + 1)
    with pytest.raises(InputError, match=r"more than|at most"):
        verify(path)


def test_a_file_that_grows_all_the_time_comes_to_an_end(tmp_path: Path) -> None:
    files = contents()
    path = packed(tmp_path / "vqa.mmtrt", files, manifest_of(files))
    stop, grown = threading.Event(), threading.Event()

    def grow() -> None:
        with path.open("ab") as stream:
            while not stop.is_set() and stream.tell() < 1 << 28:
                stream.write(bytes(1 << 16))
                grown.set()

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        assert grown.wait(timeout=60)
        with pytest.raises(InputError):
            verify(path)
    finally:
        stop.set()
        thread.join()


# ------------------------------------------------------------------------------------------- changed between the reads


def test_what_is_exchanged_after_the_seal_was_read_is_refused(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest is of the first reading, and its digests hold for the second."""
    files = contents(seed=1)
    other = packed(tmp_path / "other", files, manifest_of(files), tar=bundle.is_file())

    def exchanged(path: Path, seal: reading.Sealed) -> Iterator[Member]:
        path.rename(tmp_path / "before")
        other.rename(path)
        yield from members(path, seal)

    monkeypatch.setattr(opening, "members", exchanged)
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="is refused"):
        unpack(bundle, tmp_path / "out")


def test_a_file_cut_while_it_is_read_is_refused(bundle: Path) -> None:
    seal = sealed(bundle)
    file = bundle if bundle.is_file() else bundle / "engines" / "any-rtx.int8.engine"
    reading_on = members(bundle, seal)
    member = next(reading_on)
    os.truncate(file, 0)
    with pytest.raises(InputError, match="it ends too early"):
        sum(len(chunk) for chunk in chain.from_iterable(m.chunks for m in chain([member], reading_on)))


class Broken:
    """A file on a disk that fails; it is asked for its position, and for its end."""

    def __init__(self, stream: object) -> None:
        self._stream = stream

    def read(self, _: int) -> bytes:
        raise OSError(5, "Input/output error")


def test_a_disk_that_fails_is_told_and_is_no_bug(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = reading._pieces
    monkeypatch.setattr(reading, "_pieces", lambda stream, size: pieces(Broken(stream), size))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="Input/output error"):
        verify(bundle)
    monkeypatch.undo()
    seal = sealed(bundle)
    monkeypatch.setattr(reading, "_pieces", lambda stream, size: pieces(Broken(stream), size))  # type: ignore[arg-type]
    monkeypatch.setattr(opening, "sealed", lambda _: seal)
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="Input/output error"):
        unpack(bundle, tmp_path / "out")


def test_a_target_that_can_t_be_written_is_the_machine_s(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(MachineError):
        unpack(bundle, tmp_path / "none")


def test_nothing_of_an_altered_bundle_is_written_but_what_was_right_by_then(bundle: Path, tmp_path: Path) -> None:
    file = bundle if bundle.is_file() else bundle / "timing" / "any-rtx.cache"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="it was altered"):
        unpack(bundle, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
