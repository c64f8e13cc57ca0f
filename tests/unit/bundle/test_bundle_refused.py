"""What is altered or unsafe is refused, as such, and nothing of it appears outside of the folder given."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from bundle_parts import folder_of, parts, stream_of, tar_of
from fuzz_base import contents, manifest_of, packed

from mmtrt.bundle import folders
from mmtrt.bundle.canonical import END, header, padding, seal_of
from mmtrt.bundle.opening import unpack, verify
from mmtrt.errors import InputError


def resealed(folder: Path) -> Path:
    """What an attacker does who knows the form: compute the outer digest anew."""
    rows = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    rows.pop("bundle.sha256")
    (folder / "bundle.sha256").write_text(f"{hashlib.sha256(stream_of(rows)).hexdigest()}\n")
    return folder


def refused(path: Path, match: str) -> None:
    """Neither verified nor unpacked, and nothing is written beside the folder given."""
    out = path.with_name("out")
    out.mkdir()
    before = {p: p.lstat().st_mtime_ns for p in path.parent.rglob("*") if out not in p.parents and p != out}
    with pytest.raises(InputError, match=match):
        verify(path)
    with pytest.raises(InputError, match=match):
        unpack(path, out)
    assert {p: p.lstat().st_mtime_ns for p in path.parent.rglob("*") if out not in p.parents and p != out} == before


# ------------------------------------------------------------------------------------------------ the directory form


def a_socket(at: Path) -> None:
    at.unlink()
    before = Path.cwd()
    os.chdir(at.parent)  # the path of a socket has a hundred bytes at most
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(at.name)
    finally:
        os.chdir(before)


def a_link(at: Path) -> None:
    at.rename(at.parents[2] / "moved")
    at.symlink_to(at.parents[2] / "moved")


def a_folder_link(at: Path) -> None:
    at.parent.rename(at.parents[2] / "moved")
    at.parent.symlink_to(at.parents[2] / "moved")


def a_fifo(at: Path) -> None:
    at.unlink()
    os.mkfifo(at)


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "socket": (a_socket, "is a link, or no plain file"),
    "link": (a_link, "is a link, or no plain file"),
    "folder link": (a_folder_link, "is a link, or no plain file"),
    "FIFO": (a_fifo, "is a link, or no plain file"),
    "folder": (lambda at: (at.unlink(), at.mkdir()), "is empty"),
    "another empty folder": (lambda at: (at.parent / "more").mkdir(), "is empty"),
    "extra": (lambda at: at.with_name("more").write_bytes(b""), "is not in its manifest"),
    "missing": (Path.unlink, "is missing"),
    "longer": (lambda at: at.write_bytes(at.read_bytes() + b"\0"), "bytes by its manifest|by its manifest"),
    "hidden": (lambda at: at.with_name(".more").write_bytes(b""), "is no name for a file"),
    "not ASCII": (lambda at: at.with_name("mod\u00e8le").write_bytes(b""), "is no name for a file"),
    "not UTF-8": (lambda at: Path(os.fsdecode(os.fsencode(at) + b"\xff")).write_bytes(b""), "is no name for a file"),
    "deep": (lambda at: (at.parent / "a/b/c/d/e").mkdir(parents=True), "is no name for a file"),
    "device": (lambda at: at.with_name("con").write_bytes(b""), "is no name for a file"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_directory_with_anything_else_in_it_is_refused(tmp_path: Path, kind: str) -> None:
    folder = folder_of(tmp_path)
    make, why = KINDS[kind]
    make(folder / "models" / "int8.onnx")
    if kind in {"extra", "missing", "longer"}:
        resealed(folder)
    refused(folder, why)


def test_a_device_is_refused_without_being_opened(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    at = folder / "models" / "int8.onnx"
    at.unlink()
    try:
        os.mknod(at, 0o600 | 0o020000, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root makes devices")
    refused(folder, "is a link, or no plain file")


@pytest.mark.parametrize("name", ["bundle.sha256", "bundle.json"])
def test_a_directory_s_own_files_are_plain_files_too(tmp_path: Path, name: str) -> None:
    folder = folder_of(tmp_path)
    (folder / name).rename(tmp_path / "moved")
    (folder / name).symlink_to(tmp_path / "moved")
    refused(folder, "is a link, or no plain file")


def test_more_files_than_a_bundle_may_have_are_not_even_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "FILES", 20)
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(24):
        (folder / f"f{number}").touch()
    with pytest.raises(InputError, match="more than 20 files"):
        verify(folder)


def test_a_folder_exchanged_for_a_link_after_it_was_listed_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path)
    real, asked = os.open, []

    def exchange(path: object, *more: int, **named: int) -> int:
        asked.append(path)
        if asked.count("models") == 2 and not (folder / "models").is_symlink():
            (folder / "models").rename(tmp_path / "moved")
            (folder / "models").symlink_to(tmp_path / "moved")
        return real(path, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", exchange)
    with pytest.raises(InputError, match="can't read the bundle"):
        verify(folder)
    assert (folder / "models").is_symlink()


# ------------------------------------------------------------------------------------------------------ the tar form


def swapped(rows: list[bytes]) -> list[bytes]:
    return [*rows[:3], rows[4], rows[3], *rows[5:], END]


def typed(kind: bytes) -> Callable[[list[bytes]], list[bytes]]:
    def change(rows: list[bytes]) -> list[bytes]:
        head = bytearray(header("aaa", 0))
        head[156:157] = kind
        head[157:168] = b"/etc/passwd"
        head[148:156] = b" " * 8
        head[148:156] = b"%06o\0 " % sum(head)
        return [rows[0], bytes(head), *rows[1:], END]

    return change


def named(name: bytes) -> Callable[[list[bytes]], list[bytes]]:
    def change(rows: list[bytes]) -> list[bytes]:
        head = bytearray(header("a", 4))
        head[: len(name)] = name
        head[148:156] = b" " * 8
        head[148:156] = b"%06o\0 " % sum(head)
        return [rows[0], bytes(head) + b"evil" + padding(4), *rows[1:], END]

    return change


def sized(digits: bytes) -> Callable[[list[bytes]], list[bytes]]:
    def change(rows: list[bytes]) -> list[bytes]:
        head = bytearray(header("aaa", 0))
        head[124:136] = digits
        head[148:156] = b" " * 8
        head[148:156] = b"%06o\0 " % sum(head)
        return [rows[0], bytes(head), *rows[1:], END]

    return change


INSIDES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "trailing bytes": lambda rows: [*rows, END, b"more"],
    "trailing zeros": lambda rows: [*rows, END, bytes(512)],
    "one block at the end": lambda rows: [*rows, END[:512]],
    "no end": lambda rows: rows,
    "no manifest": lambda rows: [*rows[1:], END],
    "manifest not first": lambda rows: [rows[1], rows[0], *rows[2:], END],
    "manifest cut": lambda rows: [rows[0][:700]],
    "signature behind": lambda rows: [*rows, header("bundle.sig", 0), END],
    "signature twice": lambda rows: [rows[0], header("bundle.sig", 0), header("bundle.sig", 0), *rows[1:], END],
    "another seal": lambda rows: [rows[0], seal_of("0" * 64), *rows[1:], END],
    "a member twice": lambda rows: [*rows[:3], rows[2], *rows[3:], END],
    "members swapped": swapped,
    "member missing": lambda rows: [*rows[:3], *rows[4:], END],
    "nothing": lambda rows: rows[:0],
    "padding": lambda rows: [rows[0], rows[1][:-1] + b"x", *rows[2:], END],
    **{f"type {kind!r}": typed(kind) for kind in (b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"x", b"g", b"L", b"\0")},
    **{
        f"named {name!r}": named(name)
        for name in (
            b"../evil",
            b"/evil",
            b"golden/../../evil",
            b"a//b",
            b"./a",
            b"a/.",
            b"-rf",
            b"a\\b",
            b"a\0b",
            b"\xff",
            b"CON",
            b"nul.txt",
            b"a.",
            b"a b",
            b"a\nb",
            b"golden",
            b"BUNDLE.JSON",
            b"a:b",
            b"",
        )
    },
    **{
        f"sized {digits!r}": sized(digits)
        for digits in (b"77777777777\0", b"\x80" + bytes(11), b"-0000000001\0", b" 0000000000\0", b"00000000000 ")
    },
}


@pytest.mark.parametrize("kind", INSIDES)
def test_a_tar_that_is_not_as_mmtrt_writes_it_is_refused(tmp_path: Path, kind: str) -> None:
    inside = INSIDES[kind](parts(contents()))
    refused(tar_of(tmp_path / "vqa.mmtrt", *inside), "is refused")


@pytest.mark.parametrize("cut", [0, 1, 511, 512, 577, 1023, 1024, 1025, 1536, 2000, -1, -512, -1024, -1025])
def test_a_tar_that_is_cut_is_refused(tmp_path: Path, cut: int) -> None:
    files = contents()
    path = packed(tmp_path / "vqa.mmtrt", files, manifest_of(files))
    path.write_bytes(path.read_bytes()[:cut])
    refused(path, "is refused")


@pytest.mark.parametrize("name", ["none", "fifo", "loop", "null\0byte", "x" * 300])
def test_what_is_no_file_is_told_as_such(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError):
        verify(tmp_path / name)
