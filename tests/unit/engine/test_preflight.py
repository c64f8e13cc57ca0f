from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from boards import plant

from mmtrt.engine.board import Board, board
from mmtrt.engine.flavours import Flavour
from mmtrt.engine.preflight import preflight
from mmtrt.engine.targets import Target, load_target
from mmtrt.results import Mismatch
from mmtrt.runtimes.cuda import GpuInfo

TENSORRT = Flavour(name="tensorrt", version="10.3.0", needs_gpu_to_build=True)
RTX = Flavour(name="tensorrt-rtx", version="1.7.1", needs_gpu_to_build=False)
GPUS = {
    "orin": GpuInfo(name="Orin", compute_capability="8.7", memory_mib=7620, driver="540.4"),
    "thor": GpuInfo(name="NVIDIA Thor", compute_capability="11.0", memory_mib=125749, driver="580"),
    "server": GpuInfo(name="NVIDIA H200", compute_capability="9.0", memory_mib=143771, driver="580"),
}


def held(target: str | Target, on: Board, gpu: str | None = "orin", **changes: Any) -> list[Mismatch]:
    given: dict[str, Any] = {"flavours": [TENSORRT], "disk_free_mib": 4000.0, "needed_mib": 100.0, **changes}
    wanted = load_target(target) if isinstance(target, str) else target
    return preflight(wanted, board=on, gpu=GPUS[gpu] if gpu else None, **given)


@pytest.fixture
def on(tmp_path: Path) -> Any:
    return lambda name: board(plant(tmp_path / name, name))


def named(found: list[Mismatch]) -> dict[str, Mismatch]:
    names = {mismatch.what: mismatch for mismatch in found}
    assert len(names) == len(found)
    return names


@pytest.mark.parametrize(("name", "gpu"), [("orin-nx", "orin"), ("agx-orin", "orin"), ("thor", "thor")])
def test_a_board_that_is_set_up_for_its_target_has_nothing_amiss(on: Any, name: str, gpu: str) -> None:
    found = on(name)
    best = found.best_power_mode[1]
    assert held(name, replace(found, power_mode=best, gpu_clock_held=True), gpu) == []


def test_power_mode_and_clocks_are_told_with_the_boards_own_numbers_and_stop_nothing(on: Any) -> None:
    found = named(held("orin-nano", on("orin-nano")))
    assert set(found) == {"power mode", "clocks"}
    assert not any(mismatch.stops for mismatch in found.values())
    assert (found["power mode"].wanted, found["power mode"].found) == ("MAXN_SUPER", "15W")
    assert "sudo nvpmodel -m 2" in found["power mode"].fix
    assert "jetson_clocks" in found["clocks"].fix


def test_a_mode_that_the_board_lacks_is_told_with_those_that_it_has(on: Any) -> None:
    target = load_target("orin-nx").model_copy(update={"power_mode": "MAXN_SUPER"})
    found = named(held(target, on("orin-nx")))["power mode"]
    assert found.fix == "This board has no such mode; it has MAXN, 10W, 15W, 25W."


def test_a_pc_is_no_jetson(on: Any) -> None:
    found = held("orin-nano", Board(memory_free_mib=16000), "server")
    assert [mismatch.what for mismatch in found] == ["compute capability", "board"]
    assert all(mismatch.stops for mismatch in found)
    assert "9.0 (NVIDIA H200)" in found[0].found
    assert "--target" in found[0].fix


def test_another_jetson_is_told_and_may_do(on: Any) -> None:
    found = named(held("agx-orin", on("orin-nx")))
    assert (found["board"].wanted, found["board"].found, found["board"].stops) == ("agx-orin", "orin-nx", False)


@pytest.mark.parametrize(
    ("jetpack", "stops", "told"),
    [
        ("6.2", None, ""),
        ("6.2.3", None, ""),
        ("5.1.2", True, "Flash the board with JetPack 7.2"),
        ("6.0", True, "Flash"),
        ("7.1", False, "Add it to the target"),
        ("6.20", False, "Add it"),
        ("8.0", False, "Add it"),
        (None, False, "apt show nvidia-jetpack"),
    ],
)
def test_jetpack_is_held_against_the_releases_of_the_target(
    on: Any, jetpack: str | None, stops: bool | None, told: str
) -> None:
    found = named(held("orin-nano", replace(on("orin-nano"), jetpack=jetpack))).get("JetPack")
    assert (found.stops if found else None) == stops
    assert told in (found.fix if found else "")


def test_too_little_free_memory_stops_with_what_gives_more(on: Any) -> None:
    nano = replace(on("orin-nano"), memory_free_mib=900)
    found = held("orin-nano", nano)[0]
    assert (found.what, found.wanted, found.found, found.stops) == ("free memory", "2048 MiB", "900 MiB", True)
    assert all(word in found.fix for word in ("multi-user.target", "nvzramconfig", "/swapfile"))
    bare = replace(nano, desktop=False, zram=False, swap_mib=8191)
    assert held("orin-nano", bare)[0].fix.startswith("End what takes it")


def test_memory_that_is_not_told_is_a_warning(on: Any) -> None:
    found = named(held("orin-nano", replace(on("orin-nano"), memory_free_mib=None)))["free memory"]
    assert (found.found, found.stops) == ("unknown", False)


@pytest.mark.parametrize(("free", "stops"), [(99.0, True), (float("nan"), True), (None, False)])
def test_free_disk_space_that_is_too_little_or_unknown_is_told(free: float | None, stops: bool) -> None:
    found = named(held("any-rtx", Board(), flavours=[RTX], disk_free_mib=free))["free disk space"]
    assert (found.wanted, found.stops) == ("100 MiB", stops)


def test_a_flavour_that_is_missing_stops_and_is_told_with_what_to_install(on: Any) -> None:
    found = held("orin-nano", on("orin-nano"), flavours=[RTX])[0]
    assert (found.what, found.found, found.stops) == ("TensorRT", "TensorRT-RTX 1.7.1", True)
    assert "--system-site-packages" in found.fix
    none = held(Target(name="a", description="d"), Board(), flavours=[])[0]
    assert (none.wanted, none.found) == ("TensorRT or TensorRT-RTX", "none that loads")


def test_without_a_gpu_rtx_builds_and_tensorrt_does_not() -> None:
    ahead = named(held("any-rtx", Board(), None, flavours=[RTX]))["GPU"]
    assert not ahead.stops
    assert "--build-only" in ahead.fix
    there = named(held("server", Board(), None, flavours=[TENSORRT, RTX]))["GPU"]
    assert there.stops
    either = named(held(Target(name="a", description="d"), Board(), None, flavours=[TENSORRT, RTX]))["GPU"]
    assert "TensorRT-RTX" in either.wanted


def test_a_dla_is_not_asked_of_rtx(on: Any) -> None:
    target = load_target("agx-orin-dla").model_copy(update={"flavor": "tensorrt-rtx"})
    found = named(held(target, on("agx-orin"), flavours=[RTX]))["DLA"]
    assert found.stops
