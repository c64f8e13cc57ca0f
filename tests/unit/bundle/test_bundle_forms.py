"""A bundle's two forms: the same content is the same bytes and the same digest, and all of it comes out again."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
from fuzz_base import contents, manifest_of, packed

from mmtrt.bundle.archive import write_bundle
from mmtrt.bundle.canonical import FILE_BYTES, header
from mmtrt.bundle.opening import unpack, verify
from mmtrt.errors import InputError, MachineError


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_same_content_is_the_same_bytes_and_digest_in_either_form(tmp_path: Path) -> None:
    files = contents()
    manifest = manifest_of(files)
    one = packed(tmp_path / "1.mmtrt", files, manifest, b"signature")
    two = packed(tmp_path / "2.mmtrt", dict(reversed(files.items())), manifest, b"signature")
    folder = packed(tmp_path / "folder", files, manifest, b"signature", tar=False)

    assert one.read_bytes() == two.read_bytes()
    assert verify(one).digest == verify(folder).digest
    assert verify(one).signed
    with tarfile.open(one) as tar:
        assert {m.name: tar.extractfile(m).read() for m in tar.getmembers()} == files_of(folder)


def test_what_is_unpacked_is_the_directory_form(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    opened = unpack(bundle, out)

    packed(tmp_path / "directory", contents(), manifest_of(contents()), tar=False)
    assert files_of(out) == files_of(tmp_path / "directory")
    assert verify(out).digest == opened.digest == verify(bundle).digest
    assert not opened.signed
    assert opened.signed_by == ""


def test_the_tar_s_own_tools_read_it(tmp_path: Path) -> None:
    if (tar := shutil.which("tar")) is None:
        pytest.skip("no tar on this machine")
    files = contents()
    path = packed(tmp_path / "vqa.mmtrt", files, manifest_of(files))
    (tmp_path / "out").mkdir()
    subprocess.run([tar, "-xf", path, "-C", tmp_path / "out"], check=True)
    assert verify(tmp_path / "out").digest == verify(path).digest


@pytest.mark.parametrize(("name", "size"), [("a", 0), ("golden/0000.npz", 511), ("a/b/c/" + "d" * 94, 8**11 - 1)])
def test_a_header_is_the_one_that_tarfile_reads(name: str, size: int) -> None:
    info = tarfile.TarInfo.frombuf(header(name, size), "ascii", "strict")
    assert (info.name, info.size, info.mode, info.type, info.mtime) == (name, size, 0o644, tarfile.REGTYPE, 0)


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_nothing_unpacked_is_executable_or_writable_by_others(bundle: Path, tmp_path: Path, mask: int) -> None:
    out = tmp_path / "out"
    out.mkdir()
    before = os.umask(mask)
    try:
        unpack(bundle, out)
    finally:
        os.umask(before)
    modes = {(p.is_dir(), stat.S_IMODE(p.lstat().st_mode)) for p in out.rglob("*")}
    assert modes == {(True, 0o755 & ~mask), (False, 0o644 & ~mask)}


def test_a_folder_that_is_not_empty_is_left_alone(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "bundle.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MachineError, match="is not empty"):
        unpack(bundle, out)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("tar", [True, False])
def test_a_file_that_changes_while_it_is_packed_is_no_bundle(tmp_path: Path, tar: bool) -> None:
    files = contents()
    manifest = manifest_of(files | {"models/int8.onnx": bytes(1500)})
    with pytest.raises(InputError, match=r"int8\.onnx was changed while it was packed"):
        packed(tmp_path / "vqa.mmtrt", files, manifest, tar=tar)
    assert [p.name for p in tmp_path.iterdir()] == ["vqa.mmtrt.files"]


def test_a_file_too_large_for_a_header_is_told_before_anything_is_written(tmp_path: Path) -> None:
    files = contents()
    packed(tmp_path / "vqa.mmtrt", files, manifest_of(files))
    sources = {name: tmp_path / "vqa.mmtrt.files" / name for name in files}
    with sources["models/fp32.onnx.data"].open("wb") as stream:
        stream.truncate(FILE_BYTES + 1)
    with pytest.raises(InputError, match="several files of external data"):
        write_bundle(tmp_path / "new.mmtrt", sources, manifest_of(files), None, tar=True)
    assert not (tmp_path / "new.mmtrt").exists()


def test_a_bundle_may_be_named_by_a_link(bundle: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(bundle)
    assert verify(link).digest == verify(bundle).digest
    assert verify(link).path == link
