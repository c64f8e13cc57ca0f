"""Builds the software driver, and the environment in which a process finds it in an NVIDIA driver's place."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

__all__ = ["ACTIVE", "HERE", "compiler", "environment", "libraries"]

HERE = Path(__file__).parent
ACTIVE = "MMTRT_EMULATED"
"""Set to 1 in a process that has the software driver."""

_LIBRARIES = {"libcuda.so.1": "driver", "libnvidia-ml.so.1": "nvml"}
_FLAGS = ("-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-Wno-unused-parameter", "-fPIC", "-shared", "-pthread")


def compiler() -> str | None:
    """Return the C compiler, None where there is none."""
    return shutil.which("gcc") or shutil.which("cc")


def libraries() -> Path:
    """Return the folder of the libraries; they are built where no such folder is there yet."""
    sources = sorted(path for folder in _LIBRARIES.values() for path in (HERE / folder).glob("*.[ch]"))
    digest = hashlib.sha256("".join(_FLAGS).encode())
    for path in sources:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    top = Path(os.environ.get("MMTRT_EMULATED_CACHE", Path(tempfile.gettempdir()) / f"mmtrt-emulated-{os.getuid()}"))
    folder = top / digest.hexdigest()[:16]
    if not folder.is_dir():
        _build(folder)
    return folder


def _build(folder: Path) -> None:
    gcc = compiler()
    if gcc is None:
        raise RuntimeError("no gcc: the software driver is built with it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        made = Path(name) / "made"
        made.mkdir()
        for library, source in _LIBRARIES.items():
            files = sorted(str(path) for path in (HERE / source).glob("*.c"))
            command = [gcc, *_FLAGS, "-fvisibility=hidden", f"-Wl,-soname,{library}", "-o", str(made / library), *files]
            subprocess.run(command, check=True)
        try:
            made.rename(folder)
        except OSError:
            # Another process was first.
            if not folder.is_dir():
                raise


def environment(base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of a process that sees the emulated GPU, and the stand-ins for what would drive it."""
    sources = HERE.parents[1] / "src"
    first = {
        "LD_LIBRARY_PATH": [libraries()],
        "PYTHONPATH": [HERE / "stand_ins", HERE, HERE.parent / "models", sources],
    }
    told = {key: os.pathsep.join([*map(str, paths), *filter(None, [base.get(key)])]) for key, paths in first.items()}
    return {**base, **told, ACTIVE: "1"}
