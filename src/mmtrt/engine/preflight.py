"""Does this machine have what a target asks for? Each thing that is otherwise is named, with its mend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mmtrt.engine.board import Board
from mmtrt.engine.flavours import Flavour, gpu_trouble
from mmtrt.engine.targets import Target
from mmtrt.results import Mismatch
from mmtrt.runtimes.cuda import GpuInfo
from mmtrt.runtimes.tensorrt_api import LABELS, install_line

__all__ = ["free_memory_advice", "power_advice", "preflight"]


def preflight(
    target: Target,
    *,
    board: Board,
    gpu: GpuInfo | None,
    flavours: Sequence[Flavour],
    disk_free_mib: float | None,
    needed_mib: float,
) -> list[Mismatch]:
    """Hold a machine against a target: its board, its GPU (None: no GPU), the flavours that load, its free disk.

    `needed_mib` is the disk space that is needed, in MiB. Mismatches that stop a deploy come first.
    """
    found = [
        *_flavour(target, gpu, flavours),
        *_gpu(target, gpu),
        *_board(target, board),
        *_jetpack(target, board),
        *_memory(target, board),
        *_disk(disk_free_mib, needed_mib),
        *_power(target, board),
    ]
    return sorted(found, key=lambda mismatch: not mismatch.stops)


def _chosen(target: Target, gpu: GpuInfo | None, flavours: Sequence[Flavour]) -> Flavour | None:
    """Return the flavour that a build takes; the rule of `auto` is that of `mmtrt.engine.flavours.choose`."""
    here = {flavour.name: flavour for flavour in flavours}
    if target.flavor != "auto":
        return next((flavour for name, flavour in here.items() if name == target.flavor), None)
    order = ("tensorrt", "tensorrt-rtx") if gpu is not None else ("tensorrt-rtx", "tensorrt")
    return next((here[name] for name in order if name in here), None)


def _flavour(target: Target, gpu: GpuInfo | None, flavours: Sequence[Flavour]) -> Iterator[Mismatch]:
    chosen = _chosen(target, gpu, flavours)
    if chosen is None:
        names = [name for name in LABELS if target.flavor in {name, "auto"}]
        yield Mismatch(
            what="TensorRT",
            wanted=" or ".join(LABELS[name] for name in names),
            found=", ".join(map(str, flavours)) or "none that loads",
            fix="; or ".join(install_line(name) for name in names),
        )
        return
    if gpu is None:
        built = "." if chosen.needs_gpu_to_build else ". An engine can be built here: --build-only."
        yield Mismatch(
            what="GPU",
            wanted=f"a GPU that {chosen} can use",
            found=gpu_trouble(),
            fix=f"Deploy on a machine with one{built}",
            stops=chosen.needs_gpu_to_build,
        )
    if target.dla_core is not None and chosen.name == "tensorrt-rtx":
        yield Mismatch(
            what="DLA",
            wanted=f"DLA core {target.dla_core}",
            found=f"{chosen}, which has no DLA",
            fix="Deploy on the board, with its own TensorRT, or for a target without dla_core.",
        )


def _gpu(target: Target, gpu: GpuInfo | None) -> Iterator[Mismatch]:
    wanted = target.gpu_capability
    if gpu is not None and wanted is not None and gpu.compute_capability != wanted:
        yield Mismatch(
            what="compute capability",
            wanted=wanted,
            found=f"{gpu.compute_capability} ({gpu.name})",
            fix=_OTHER,
        )


_OTHER = "Choose the target of this machine with --target, or deploy on the machine that this one is for."


def _board(target: Target, board: Board) -> Iterator[Mismatch]:
    if target.board is None or target.board == board.family:
        return
    yield Mismatch(
        what="board",
        wanted=target.board,
        found=board.family or board.model or "no Jetson",
        fix=_OTHER,
        # The settings of another Jetson may do: what they ask for is looked at one by one.
        stops=not board.is_jetson,
    )


# ------------------------------------------------------------------------------------------------ software


def _jetpack(target: Target, board: Board) -> Iterator[Mismatch]:
    if not target.jetpack or not board.is_jetson:
        return
    wanted = ", ".join(target.jetpack)
    if board.jetpack is None:
        told = f"unknown, with Jetson Linux {board.l4t}" if board.l4t else "unknown"
        fix = "`apt show nvidia-jetpack` on the board tells; the settings were made for other releases, and may do."
        yield Mismatch(what="JetPack", wanted=wanted, found=told, fix=fix, stops=False)
        return
    if any(_within(board.jetpack, release) for release in target.jetpack):
        return
    old = _numbers(board.jetpack) < min(map(_numbers, target.jetpack))
    yield Mismatch(
        what="JetPack",
        wanted=wanted,
        found=board.jetpack,
        fix=f"Flash the board with JetPack {target.jetpack[-1]}." if old else "Add it to the target once it is tested.",
        stops=old,
    )


def _within(release: str, wanted: str) -> bool:
    """Return whether 6.2.1 is a 6.2."""
    numbers = _numbers(wanted)
    return _numbers(release)[: len(numbers)] == numbers


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split(".") if part.isdigit())


# -------------------------------------------------------------------------------------------- memory, disk


def _memory(target: Target, board: Board) -> Iterator[Mismatch]:
    wanted = target.memory_mib
    if wanted is None or (board.memory_free_mib is not None and board.memory_free_mib >= wanted):
        return
    yield Mismatch(
        what="free memory",
        wanted=f"{wanted} MiB",
        found="unknown" if board.memory_free_mib is None else f"{board.memory_free_mib} MiB",
        fix=" ".join(free_memory_advice(board)) or "End what takes it, or lower workspace_mib and memory_mib.",
        stops=board.memory_free_mib is not None,
    )


def free_memory_advice(board: Board) -> list[str]:
    """Return what gives a board more memory, most first; nothing on a machine that is no Jetson."""
    if not board.is_jetson:
        return []
    advice = []
    if board.desktop:
        advice.append(
            "The desktop takes about 800 MiB: `sudo systemctl isolate multi-user.target` ends it, "
            "`sudo systemctl set-default multi-user.target` keeps it off."
        )
    if board.zram:
        advice.append(
            "Swap lies in compressed memory (zram), which a build then lacks: "
            "`sudo systemctl disable --now nvzramconfig` ends it."
        )
    if board.zram or not board.swap_mib:
        advice.append(
            "Swap on the disk helps the builder: `sudo fallocate -l 8G /swapfile`, `sudo chmod 600 /swapfile`, "
            "`sudo mkswap /swapfile`, `sudo swapon /swapfile`."
        )
    return advice


def _disk(free_mib: float | None, needed_mib: float) -> Iterator[Mismatch]:
    if free_mib is not None and free_mib >= needed_mib:
        return
    yield Mismatch(
        what="free disk space",
        wanted=f"{needed_mib:.0f} MiB",
        found="unknown" if free_mib is None else f"{free_mib:.0f} MiB",
        fix="Remove what is not needed, or deploy to a folder on another disk.",
        stops=free_mib is not None,
    )


# --------------------------------------------------------------------------------------------------- power


def _power(target: Target, board: Board) -> Iterator[Mismatch]:
    wanted = target.power_mode
    if wanted == "best":
        wanted = board.best_power_mode[1] if board.best_power_mode else None
    if wanted is not None and board.is_jetson and board.power_mode != wanted:
        yield Mismatch(
            what="power mode",
            wanted=wanted,
            found=board.power_mode or "unknown",
            fix=power_advice(board, wanted),
            stops=False,
        )
    if target.clocks == "held" and board.gpu_clock_held is False:
        yield Mismatch(
            what="clocks",
            wanted="held at their highest",
            found="the GPU's clock follows the load",
            fix="`sudo jetson_clocks` holds them until the next start.",
            stops=False,
        )


def power_advice(board: Board, wanted: str) -> str:
    """Return how to set a power mode of this board by its name; its number differs from board to board."""
    number = next((number for number, name in board.power_modes if name == wanted), None)
    if number is None:
        there = ", ".join(name for _, name in board.power_modes) or "none that can be read"
        return f"This board has no such mode; it has {there}."
    return f"`sudo nvpmodel -m {number}` sets {wanted}; some changes ask for a restart."
