"""A library within an engine is found wherever it stands; kernels, which are ELF files as well, are let through."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from mmtrt.bundle import host_code
from mmtrt.bundle.host_code import check_engine_code
from mmtrt.errors import InputError


def elf(machine: int, *, width: int = 2, order: int = 1, version: int = 1) -> bytes:
    return (
        b"\x7fELF" + bytes([width, order, version]) + bytes(9) + struct.pack("<>"[order - 1 : order] + "HH", 3, machine)
    )


@pytest.mark.parametrize("place", [0, 1, 44, 45, 63, 64, 65, 100, 236])
@pytest.mark.parametrize(("machine", "name"), [(62, "x86-64"), (183, "64-bit Arm"), (9, "machine 9")])
def test_a_library_is_found_wherever_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int, machine: int, name: str
) -> None:
    monkeypatch.setattr(host_code, "_CHUNK", 64)
    path = tmp_path / "model.engine"
    path.write_bytes((bytes(place) + elf(machine)).ljust(256, b"\xaa"))
    with pytest.raises(InputError, match=f"native code for {name}, at byte {place},"):
        check_engine_code(path)


def test_one_behind_kernels_is_found(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(elf(190) * 3 + b"\x7fELF" * 2 + elf(62, order=2))
    with pytest.raises(InputError, match=f"at byte {3 * 20 + 8},"):
        check_engine_code(path)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x7fELF", elf(190), elf(190, width=1), elf(62)[:-1], elf(62, width=3), elf(62, version=0), bytes(300)],
)
def test_kernels_and_chance_are_none(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(data)
    check_engine_code(path)


def test_an_engine_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        check_engine_code(tmp_path / "model.engine")
