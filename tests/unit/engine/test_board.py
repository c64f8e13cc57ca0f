from __future__ import annotations

from pathlib import Path

import pytest
from boards import BOARDS, plant

from mmtrt.engine.board import Board, board


@pytest.mark.parametrize(
    ("name", "jetpack", "l4t", "mode", "best"),
    [
        ("orin-nano", "6.2", "36.4.3", "15W", (2, "MAXN_SUPER")),
        ("orin-nx", "6.1", "36.4.0", "25W", (0, "MAXN")),
        ("agx-orin", "6.2.1", "36.4.4", "MAXN", (0, "MAXN")),
        ("thor", "7.1", "38.4.0", "120W", (0, "MAXN")),
    ],
)
def test_each_family_tells_itself(
    tmp_path: Path, name: str, jetpack: str, l4t: str, mode: str, best: tuple[int, str]
) -> None:
    found = board(plant(tmp_path, name))
    assert (found.family, found.jetpack, found.l4t, found.power_mode) == (name, jetpack, l4t, mode)
    assert found.best_power_mode == best
    assert found.model == BOARDS[name].model
    assert found.is_jetson
    assert found.memory_total_mib == BOARDS[name].memory_kib // 1024
    assert found.memory_free_mib == BOARDS[name].available_kib // 1024


def test_swap_zram_desktop_and_clocks_are_told(tmp_path: Path) -> None:
    nano, nx, thor = (board(plant(tmp_path / name, name)) for name in ("orin-nano", "orin-nx", "thor"))
    assert (nano.swap_mib, nano.zram, nano.desktop, nano.gpu_clock_held) == (6 * 650240 // 1024, True, True, False)
    assert (nx.swap_mib, nx.zram, nx.desktop, nx.gpu_clock_held) == (8191, False, False, True)
    # A server starts `graphical.target` too, and no display manager with it.
    assert (thor.swap_mib, thor.zram, thor.desktop) == (0, False, False)


def test_a_machine_that_is_no_board_tells_what_it_has(tmp_path: Path) -> None:
    assert board(tmp_path) == Board()
    assert not board(tmp_path).is_jetson
    assert board(tmp_path).best_power_mode is None
    assert board().memory_total_mib is not None


@pytest.mark.parametrize(
    ("release", "jetpack"),
    [
        ("R36 (release), REVISION: 4.3,", "6.2"),
        ("R39 (release), REVISION: 2.0,", "7.2"),
        ("R36 (release), REVISION: 9.9,", None),
        ("R99 (release), REVISION: 1.0,", None),
    ],
)
def test_without_the_package_jetpack_follows_from_the_release_where_that_is_known(
    tmp_path: Path, release: str, jetpack: str | None
) -> None:
    root = plant(tmp_path, "orin-nano")
    (root / "etc/nv_tegra_release").write_text(f"# {release} GCID: 1\n", encoding="utf-8")
    status = "Package: nvidia-jetpack\nStatus: deinstall ok config-files\nVersion: 5.1.2-b104\n"
    (root / "var/lib/dpkg/status").write_text(status, encoding="utf-8")
    assert board(root).jetpack == jetpack


@pytest.mark.parametrize(
    ("compatible", "model", "family"),
    [
        ("maker,carrier\0nvidia,p3767-0001\0nvidia,tegra234", "A maker's box", "orin-nx"),
        ("maker,carrier\0nvidia,p3767-0003\0nvidia,tegra234", "A maker's box", "orin-nano"),
        ("nvidia,tegra234", "NVIDIA Jetson Orin NX Developer Kit", "orin-nx"),
        ("nvidia,p2888-0004\0nvidia,tegra194", "Jetson-AGX", ""),
    ],
)
def test_the_module_tells_the_family_on_any_carrier(tmp_path: Path, compatible: str, model: str, family: str) -> None:
    root = plant(tmp_path, "agx-orin")
    (root / "proc/device-tree/compatible").write_text(compatible, encoding="utf-8")
    (root / "proc/device-tree/model").write_text(model, encoding="utf-8")
    assert board(root).family == family


def test_a_mode_without_a_name_is_told_by_its_number(tmp_path: Path) -> None:
    root = plant(tmp_path, "orin-nano")
    (root / "var/lib/nvpmodel/status").write_text("pmode:0007", encoding="utf-8")
    assert board(root).power_mode == "7"


def test_a_desktop_that_runs_is_seen_whatever_starts_with_the_board(tmp_path: Path) -> None:
    root = plant(tmp_path, "agx-orin")
    assert board(root).desktop is False
    (root / "proc/100/comm").write_text("Xorg\n", encoding="utf-8")
    assert board(root).desktop is True
