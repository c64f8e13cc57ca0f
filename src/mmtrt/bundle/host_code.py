"""Native code within a serialized engine, found without TensorRT, which runs it when it deserializes the engine.

A plan may carry plugin libraries (`plugins_to_serialize`) and a lean runtime (`VERSION_COMPATIBLE`), each as the
shared library that it is. Kernels are ELF files too, of NVIDIA's own machine; those are what an engine is for.
"""

from __future__ import annotations

from pathlib import Path

from mmtrt.errors import InputError

__all__ = ["check_engine_code"]

_MAGIC = b"\x7fELF"
_HEAD = 20
_CUDA = 190
_MACHINES = {3: "x86", 40: "Arm", 62: "x86-64", 183: "64-bit Arm", 243: "RISC-V"}
_CHUNK = 1 << 22


def check_engine_code(engine: Path) -> None:
    """Raise InputError where an engine's file carries native code for a processor.

    That there is none found does not make an engine safe: TensorRT trusts what it deserializes.
    """
    found = _library(engine)
    if found is not None:
        place, machine = found
        told = _MACHINES.get(machine, f"machine {machine}")
        raise InputError(
            f"{engine} carries native code for {told}, at byte {place}, which would run as soon as it is loaded",
            fix="Build the engine without plugin libraries or a lean runtime in it, or on the board from the ONNX.",
        )


def _library(engine: Path) -> tuple[int, int] | None:
    """Return where the first ELF file starts that is no kernel, and its machine."""
    kept, start = b"", 0
    try:
        with engine.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                data = kept + chunk
                at = data.find(_MAGIC)
                while 0 <= at <= len(data) - _HEAD:
                    machine = _machine(data[at : at + _HEAD])
                    if machine not in {None, _CUDA}:
                        return start + at, int(machine or 0)
                    at = data.find(_MAGIC, at + 1)
                # A header may begin in one piece and end in the next.
                kept = data[-(_HEAD - 1) :]
                start += len(data) - len(kept)
    except OSError as error:
        raise InputError(f"can't read {engine}: {error.strerror}", fix="Check the path.") from error
    return None


def _machine(head: bytes) -> int | None:
    """Return the machine of an ELF header's first 20 bytes, None where it is none, only the magic number."""
    width, order, version = head[4], head[5], head[6]
    if width not in {1, 2} or order not in {1, 2} or version != 1:
        return None
    return int.from_bytes(head[18:20], "little" if order == 1 else "big")
