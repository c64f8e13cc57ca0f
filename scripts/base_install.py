"""What an edge device installs: makes it in a virtual environment of its own, and tells what each package weighs.

Needs the Python of the project's environment (pip and hatchling). `scripts/base-install` is the command; the tests in
`tests/base` take the same environment. An environment that was made from the same inputs is left as it is.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIMIT_MB = 20.0
# What the board brings itself is not counted: numpy, and TensorRT, in whose place TensorRT-RTX stands.
NOT_COUNTED = ("numpy", "tensorrt_rtx")
BOARDS_OWN = "tensorrt-rtx"
ABSENT = (
    *("torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "polygraphy", "transformers", "safetensors"),
    *("cryptography", "mmtrt_zoo", "pip"),
)

# Runs in the environment: bytes of the files of each distribution, without bytecode; which of the given modules it has.
MEASURE = """
import importlib.metadata, importlib.util, json, sys
sizes = {}
for one in importlib.metadata.distributions():
    files = [one.locate_file(f) for f in one.files or () if f.suffix != ".pyc"]
    sizes[one.name] = sum(f.stat().st_size for f in files if f.is_file())
print(json.dumps([sizes, [name for name in sys.argv[1:] if importlib.util.find_spec(name) is not None]]))
"""


def main() -> int:
    """Make the environment, print its table; exit code 1 where it is too big or holds what it must do without."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv-base", metavar="DIR", help="default: .venv-base")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    options = parser.parse_args()
    venv = options.venv.absolute()
    with locked(venv):
        if not is_made(venv):
            make(venv)
    found = measure(venv)
    print(json.dumps(found) if options.json else table(found))
    return 0 if found["counted_mb"] <= LIMIT_MB and not found["present"] else 1


@contextmanager
def locked(venv: Path) -> Iterator[None]:
    """One process at a time makes the environment; the others find it made."""
    venv.mkdir(parents=True, exist_ok=True)
    folder = os.open(venv, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def is_made(venv: Path) -> bool:
    """Whether this very code, with these constraints, is installed there, whole."""
    state = venv / ".made-from"
    return state.is_file() and state.read_text() == fingerprint(venv)


def fingerprint(venv: Path) -> str:
    """Digest of all that the environment is made from."""
    digest = hashlib.sha256(f"{sys.version}\0{venv}".encode())
    for path in inputs():
        digest.update(f"\0{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def inputs() -> Iterator[Path]:
    """Each file that decides what is installed."""
    yield from (constraints(), ROOT / "pyproject.toml", Path(__file__).resolve())
    for folder in ("engines/targets", "src"):
        yield from sorted(p for p in (ROOT / folder).rglob("*") if p.is_file() and p.suffix != ".pyc")


def constraints() -> Path:
    """Return the file of this Python's pinned versions."""
    return ROOT / "constraints" / f"py{sys.version_info.major}{sys.version_info.minor}.txt"


def make(venv: Path) -> None:
    """Install the wheel of mmtrt alone, and TensorRT-RTX in the board's place, without bytecode."""
    if any(venv.iterdir()) and not (venv / "pyvenv.cfg").is_file():
        raise SystemExit(f"base-install: {venv} holds something else than a virtual environment")
    (venv / ".made-from").unlink(missing_ok=True)
    # Not the folder itself: it carries the lock.
    run(sys.executable, "-m", "venv", "--clear", "--without-pip", venv)
    with tempfile.TemporaryDirectory() as folder:
        pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
        (wheel,) = Path(folder).glob("mmtrt-*.whl")
        pip(
            *("--python", venv / "bin" / "python", "install", "--no-compile"),
            *("--constraint", constraints(), wheel, BOARDS_OWN),
        )
    (venv / ".made-from").write_text(fingerprint(venv))


def pip(*arguments: str | Path) -> None:
    """Run the pip of this Python."""
    run(sys.executable, "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check", *arguments)


def run(*command: str | Path) -> None:
    """Run a command; its failure ends the script with its output (exit code 4: this machine can't)."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.stderr.write(done.stdout + done.stderr)
        print(f"base-install: {command[0]} ended with code {done.returncode}", file=sys.stderr)
        raise SystemExit(4)


def measure(venv: Path) -> dict[str, Any]:
    """Weigh what is installed, in MB of 1,000,000 bytes, and look for what must not be there."""
    # -I: no PYTHONPATH and no current folder may lend it anything.
    command = [str(venv / "bin" / "python"), "-I", "-c", MEASURE, *ABSENT]
    sizes, present = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    counted = {name: size for name, size in sizes.items() if not is_brought(name)}
    return {
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "venv": os.fspath(venv),
        "counted": by_size(counted.items()),
        "not_counted": by_size((name, size) for name, size in sizes.items() if name not in counted),
        "counted_mb": megabytes(sum(counted.values())),
        "limit_mb": LIMIT_MB,
        "present": present,
    }


def is_brought(name: str) -> bool:
    """Whether a board has it before mmtrt comes."""
    return name.lower().replace("-", "_").startswith(NOT_COUNTED)


def by_size(sizes: Iterable[tuple[str, int]]) -> dict[str, float]:
    """The largest first, in MB."""
    return {name: megabytes(size) for name, size in sorted(sizes, key=lambda one: -one[1])}


def megabytes(size: int) -> float:
    """Bytes to MB."""
    return round(size / 1e6, 2)


def table(found: dict[str, Any]) -> str:
    """Tell it to people."""
    lines = [f"{mb:8.2f} MB  {name}" for name, mb in found["counted"].items()]
    lines += [f"{found['counted_mb']:8.2f} MB  in all, of {found['limit_mb']:g} MB"]
    lines += [f"{mb:8.2f} MB  {name} (beside it)" for name, mb in found["not_counted"].items()]
    if not found["counted_mb"] <= found["limit_mb"]:
        lines.append("TOO BIG for a base install")
    lines += [f"PRESENT, and an edge device must do without: {name}" for name in found["present"]]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
