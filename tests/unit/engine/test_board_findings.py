"""What the doctor says of a board, by the files that each has."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from boards import plant

from mmtrt.engine import board_findings, doctor
from mmtrt.engine.doctor import Finding, diagnose
from mmtrt.engine.flavours import Flavour
from mmtrt.engine.targets import load_target
from mmtrt.errors import MachineError
from mmtrt.runtimes.cuda import GpuInfo

ORIN = GpuInfo(name="Orin", compute_capability="8.7", memory_mib=7620, driver="540.4 (CUDA 12.6)")


@pytest.fixture
def diagnosed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Diagnose the tree of a board; its TensorRT loads unless it is said to be missing."""

    def look(name: str, *, tensorrt: bool = True, target: str | None = None) -> dict[str, Finding]:
        def probe(flavour: Any) -> Flavour:
            if flavour != "tensorrt" or not tensorrt:
                raise MachineError(f"{flavour} is not installed", fix=f"pip install {flavour}")
            return Flavour(name="tensorrt", version="10.3.0", needs_gpu_to_build=True)

        monkeypatch.setattr(doctor, "probe", probe)
        monkeypatch.setattr(doctor, "gpu", lambda: ORIN)
        root = tmp_path / name
        found = diagnose(load_target(target) if target else None, root=root if root.is_dir() else plant(root, name))
        return {finding.name: finding for finding in found}

    return look


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "orin-nano",
            "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super, JetPack 6.2, Jetson Linux 36.4.3",
        ),
        ("orin-nx", "JetPack 6.1, Jetson Linux 36.4.0, target orin-nx"),
        ("agx-orin", "JetPack 6.2.1, Jetson Linux 36.4.4, target agx-orin"),
        ("thor", "NVIDIA Jetson AGX Thor Developer Kit, JetPack 7.1, Jetson Linux 38.4.0, target thor"),
    ],
)
def test_each_board_is_told_with_its_releases(diagnosed: Any, name: str, told: str) -> None:
    found = diagnosed(name)["Jetson"]
    assert (found.state, told in found.detail) == ("ok", True)


def test_a_small_board_is_advised_on_power_desktop_zram_and_swap(diagnosed: Any) -> None:
    found = diagnosed("orin-nano")
    assert found["power mode"].detail == "15W"
    assert "`sudo nvpmodel -m 2` sets MAXN_SUPER" in found["power mode"].fix
    assert "jetson_clocks" in found["clocks"].fix
    memory = found["shared memory"]
    assert (memory.state, memory.detail) == ("warn", "4096 MiB free of 7620 MiB, swap 3810 MiB (zram), desktop on")
    assert all(word in memory.fix for word in ("multi-user.target", "nvzramconfig", "/swapfile"))


def test_a_large_board_is_not_told_to_end_its_desktop(diagnosed: Any) -> None:
    found = diagnosed("agx-orin")
    assert (found["shared memory"].state, found["shared memory"].fix) == ("ok", "")
    assert found["power mode"].state == "ok"


def test_clocks_that_are_held_are_well(diagnosed: Any) -> None:
    assert diagnosed("orin-nx")["clocks"].state == "ok"


def test_a_pc_hears_nothing_of_boards(tmp_path: Path) -> None:
    names = {finding.name for finding in diagnose(root=tmp_path)}
    assert not names & {"Jetson", "power mode", "clocks", "shared memory", "GPU devices"}


@pytest.mark.parametrize(
    ("release", "installed", "told"),
    [
        ("R35 (release), REVISION: 4.1,", "5.1.2-b104", "flash the board anew"),
        ("R99 (release), REVISION: 1.0,", "", "apt show"),
    ],
)
def test_a_release_that_is_too_old_or_not_known_is_told(
    diagnosed: Any, tmp_path: Path, release: str, installed: str, told: str
) -> None:
    root = plant(tmp_path / "orin-nano", "orin-nano")
    (root / "etc/nv_tegra_release").write_text(f"# {release} GCID: 1\n", encoding="utf-8")
    state = f"Package: nvidia-jetpack\nStatus: install ok installed\nVersion: {installed}\n" if installed else ""
    (root / "var/lib/dpkg/status").write_text(state, encoding="utf-8")
    found = diagnosed("orin-nano")["Jetson"]
    assert found.state == "warn"
    assert told in found.fix


# ---------------------------------------------------------------------------------------------- TensorRT, groups


@pytest.mark.parametrize(
    ("folder", "base", "told"),
    [
        (None, "/usr", "apt install python3-libnvinfer"),
        (".".join(platform.python_version_tuple()[:2]), "/usr", "--system-site-packages"),
        ("3", "/usr", "--system-site-packages"),
        ("3.9", "/usr", "is for Python 3.9, and this is"),
        ("3", None, "do not load"),
    ],
)
def test_bindings_that_are_missing_are_told_by_what_the_system_has(
    diagnosed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str | None, base: str | None, told: str
) -> None:
    root = plant(tmp_path / "orin-nano", "orin-nano")
    if folder is not None:
        (root / f"usr/lib/python{folder}/dist-packages/tensorrt").mkdir(parents=True)
    monkeypatch.setattr(board_findings.sys, "base_prefix", base or board_findings.sys.prefix)
    found = diagnosed("orin-nano", tensorrt=False)
    assert found["TensorRT"].state == "missing"
    assert told in found["TensorRT"].fix
    assert found["TensorRT-RTX"].fix == "pip install tensorrt-rtx"


def test_devices_that_this_user_may_not_open_are_told_with_their_group(
    diagnosed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = plant(tmp_path / "orin-nano", "orin-nano")
    (root / "dev").mkdir()
    (root / "dev/nvmap").touch()
    assert "GPU devices" not in diagnosed("orin-nano")
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(board_findings.grp, "getgrgid", lambda _: type("Group", (), {"gr_name": "video"}))
    found = diagnosed("orin-nano")["GPU devices"]
    assert found.detail == "nvmap: this user may not open them"
    assert "usermod -aG video" in found.fix


def test_a_group_without_a_name_is_told_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "device"
    path.touch()
    os.chown(path, -1, os.getgid())
    assert board_findings._group(path) in {str(os.getgid()), board_findings.grp.getgrgid(os.getgid()).gr_name}


# ----------------------------------------------------------------------------------------------------- targets


def test_a_target_says_what_the_board_lacks(diagnosed: Any) -> None:
    found = diagnosed("orin-nano", target="orin-nano")
    mode = found["for orin-nano: power mode"]
    assert (mode.state, mode.detail) == ("warn", "15W; wanted: MAXN_SUPER")
    other = diagnosed("orin-nano", target="thor")["for thor: compute capability"]
    assert (other.state, other.detail) == ("missing", "8.7 (Orin); wanted: 11.0")


def test_a_target_that_fits_is_said_to(diagnosed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMTRT_CACHE_DIR", str(tmp_path))
    target = tmp_path / "mine.toml"
    target.write_text('name = "mine"\ndescription = "d"\nboard = "orin-nx"\ngpu_capability = "8.7"\n', encoding="utf-8")
    assert diagnosed("orin-nx", target=str(target))["for mine"].state == "ok"


def test_the_command_takes_a_target() -> None:
    command = [sys.executable, "-m", "mmtrt", "doctor", "--target", "thor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = [finding["name"] for finding in json.loads(done.stdout)["findings"]]
    assert any(name.startswith("for thor: ") for name in names)
