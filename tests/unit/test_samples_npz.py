"""An `.npz` is read within bounds: a bomb is refused before it goes off, and damaged bytes are told as such."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmtrt.errors import SampleError
from mmtrt.samples import check_npz, open_set, read_npz
from mmtrt.samples.npz import EXPANDED, PLENTY


def npy(shape: str, data: bytes = b"", descr: str = "'<f4'", version: bytes = b"\x01\x00") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    width = "<H" if version == b"\x01\x00" else "<I"
    return b"\x93NUMPY" + version + struct.pack(width, len(header)) + header + data


def npz(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def bomb(path: Path, size: int, told: int | None = None) -> Path:
    """A file of zeros, a thousandth as large, which tells what it likes of its size."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as stream:
        stream.write(npy(f"({size // 4},)"))
        for _ in range(0, size, 1 << 20):
            stream.write(bytes(1 << 20))
    if told is not None:
        data = bytearray(path.read_bytes())
        for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
            at = data.index(signature) + offset
            data[at : at + 4] = struct.pack("<I", told)
        path.write_bytes(data)
    return path


BOUNDED = """
import resource, sys
from pathlib import Path
from mmtrt.errors import SampleError
from mmtrt.samples import read_npz
limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + (96 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    print({name: array.nbytes for name, array in read_npz(Path(sys.argv[1])).items()})
except SampleError as error:
    print(error)
"""


def test_a_bomb_is_refused_by_what_it_tells(tmp_path: Path) -> None:
    path = bomb(tmp_path / "bomb.npz", 64 << 20, told=4_000_000_000)
    assert path.stat().st_size < PLENTY // EXPANDED
    with pytest.raises(SampleError, match=r"it holds 4000000000 bytes, more than \d+"):
        read_npz(path)


def test_a_bomb_that_tells_less_is_not_decompressed_further(tmp_path: Path) -> None:
    path = bomb(tmp_path / "bomb.npz", 256 << 20, told=1000)
    done = subprocess.run([sys.executable, "-c", BOUNDED, path], capture_output=True, text=True, check=True)
    assert "is no readable .npz" in done.stdout
    assert "MemoryError" not in done.stdout


def test_files_are_held_to_a_limit_together(tmp_path: Path) -> None:
    files = [npz(tmp_path / f"{n}.npz", {"x.npy": npy("(250,)", bytes(1000))}) for n in range(3)]
    each = len(npy("(250,)", bytes(1000)))
    check_npz(files, 3 * each)
    with pytest.raises(SampleError, match=r"2\.npz .*holds"):
        check_npz(files, 3 * each - 1)


def test_what_compresses_well_is_read_while_it_is_small(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "zeros.npz", x=np.zeros(1 << 20, np.float32))
    assert read_npz(tmp_path / "zeros.npz")["x"].nbytes == 4 << 20


@pytest.mark.parametrize(
    "members",
    [
        {"x.npy": npy("(1000000000000,)", bytes(16))},
        {"x.npy": npy("(2, 3)", bytes(20))},
        {"x.npy": npy("(2, 3)", bytes(28))},
        {"x.npy": npy("(-2, -3)", bytes(24))},
        {"x.npy": npy("(0,)", b"more")},
        {"x.npy": npy("(1,)", bytes(8), descr="'|O'")},
        {"x.npy": npy("(1,)", bytes(4), descr="[('a', '|O')]")},
        {"x.npy": npy("(1,)", bytes(4), descr="'nothing'")},
        {"x.npy": npy("(" * 500, bytes(4))},
        {"x.npy": npy("__import__('os').getcwd()", bytes(4))},
        {"x.npy": npy("(1,)", bytes(4), version=b"\x03\x00")},
        {"x.npy": npy("(1,)", bytes(4), version=b"\x09\x00")},
        {"x.npy": b"\x93NUMPY\x01\x00\xff\xff{}"},
        {"x.npy": b""},
        {"x": npy("(1,)", bytes(4)), "x.npy": b"text"},
    ],
)
def test_an_array_is_what_its_header_says(tmp_path: Path, members: dict[str, bytes]) -> None:
    with pytest.raises(SampleError, match=r"x\.npz is no readable \.npz"):
        read_npz(npz(tmp_path / "x.npz", members))


@pytest.mark.parametrize("version", [b"\x01\x00", b"\x02\x00"])
def test_both_versions_of_a_header_are_read(tmp_path: Path, version: bytes) -> None:
    data = np.arange(4, dtype="<f4")
    path = npz(tmp_path / "x.npz", {"x.npy": npy("(4,)", data.tobytes(), version=version)})
    np.testing.assert_array_equal(read_npz(path)["x"], data)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_methods_are_refused(tmp_path: Path, method: int) -> None:
    with pytest.raises(SampleError, match="neither stored nor deflated"):
        read_npz(npz(tmp_path / "x.npz", {"x.npy": npy("(1,)", bytes(4))}, method))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_arrays_of_one_name_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for value in (b"\0", b"\1"):
            archive.writestr("x.npy", npy("(4,)", value * 4, descr="'|u1'"))
    with pytest.raises(SampleError, match="two arrays have one name"):
        read_npz(tmp_path / "x.npz")


def test_thousands_of_arrays_are_refused(tmp_path: Path) -> None:
    path = npz(tmp_path / "x.npz", {f"x{n}.npy": b"" for n in range(4097)}, zipfile.ZIP_STORED)
    with pytest.raises(SampleError, match="more than 4096 arrays"):
        read_npz(path)


def test_a_directory_of_millions_is_not_read(tmp_path: Path) -> None:
    path = npz(tmp_path / "x.npz", {"x.npy": npy("(1,)", bytes(4))}, zipfile.ZIP_STORED)
    data = path.read_bytes()
    at, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    rows = data[at:end] * (1 + (8 << 20) // (end - at))
    path.write_bytes(data[:at] + rows + data[end : end + 12] + struct.pack("<I", len(rows)) + data[end + 16 :])
    with pytest.raises(SampleError, match=r"its directory has \d+ bytes, more than 4194304"):
        read_npz(path)


def test_a_header_that_would_take_a_parser_s_memory_is_refused(tmp_path: Path) -> None:
    header = b"{" + b" " * (1 << 17)
    told = b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header
    with pytest.raises(SampleError, match="header has 131073 bytes"):
        read_npz(npz(tmp_path / "x.npz", {"x.npy": told}))


def test_a_set_s_own_description_is_small(tmp_path: Path) -> None:
    npz(tmp_path / "0.npz", {"x.npy": npy("(1,)", bytes(4))})
    with (tmp_path / "set.json").open("wb") as stream:
        stream.truncate(5 << 20)
    with pytest.raises(SampleError, match=r"set\.json has more than"):
        open_set(str(tmp_path))


def test_what_is_encrypted_is_told(tmp_path: Path) -> None:
    data = bytearray(npz(tmp_path / "x.npz", {"x.npy": npy("(1,)", bytes(4))}).read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(SampleError, match="encrypted"):
        read_npz(tmp_path / "x.npz")


def base() -> bytes:
    out = io.BytesIO()
    arrays: dict[str, Any] = {"x": np.arange(6.0).reshape(2, 3), "ids": np.array([1, 2]), "label.y": np.int64(3)}
    np.savez_compressed(out, **arrays)
    return out.getvalue()


BASE = base()


@pytest.mark.filterwarnings("ignore")
@given(st.lists(st.tuples(st.integers(0, len(BASE) - 1), st.integers(0, 255)), min_size=1, max_size=3), st.booleans())
def test_any_bytes_are_arrays_or_a_sample_error(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], plain: bool
) -> None:
    data = bytearray(BASE)
    for at, value in changes:
        data[at] = value
    path = tmp_path_factory.mktemp("x") / "x.npz"
    path.write_bytes(data)
    if plain:  # past the checksum: the header itself
        header = bytearray(npy("(4,)", bytes(16)))
        for at, value in changes:
            header[at % len(header)] = value
        npz(path, {"x.npy": bytes(header)})
    try:
        found = read_npz(path)
    except SampleError:
        return
    assert all(array.nbytes <= len(BASE) * 20 for array in found.values())


def test_a_folder_is_read_within_bounds_too(tmp_path: Path) -> None:
    bomb(tmp_path / "0.npz", 1 << 20, told=4_000_000_000)
    with pytest.raises(SampleError, match="it holds 4000000000 bytes"):
        list(open_set(str(tmp_path)))
