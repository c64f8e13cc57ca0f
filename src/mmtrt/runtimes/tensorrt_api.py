"""TensorRT and TensorRT-RTX as one API: which module is it, what does it log, whose plan is this file.

Both are imported by name, when asked for. What differs between them and between their versions is found with
`hasattr`, never by comparing versions.
"""

from __future__ import annotations

import importlib
import importlib.util
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from mmtrt.artifacts import file_digest, read_json
from mmtrt.errors import InputError, MachineError

__all__ = [
    "FLAVOURS",
    "LABELS",
    "MODULES",
    "FlavourName",
    "Log",
    "check_digest",
    "check_dtype",
    "flavour_of",
    "import_flavour",
    "install_line",
    "listening",
    "logger_of",
    "manifest_data",
    "manifest_path",
    "numpy_dtype",
    "plan_flavour",
    "read_header",
]

FlavourName = Literal["tensorrt", "tensorrt-rtx"]
FLAVOURS: tuple[FlavourName, ...] = ("tensorrt", "tensorrt-rtx")
MODULES: dict[FlavourName, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
LABELS: dict[FlavourName, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
_EXTRAS: dict[FlavourName, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "rtx"}

MANIFEST_SCHEMA = "mmtrt.engine/1"
_PARTS: dict[str, type] = {"engine": dict, "options": dict, "gpu": dict, "inputs": list, "outputs": list}
HEADER_BYTES = 64
_MAGIC: dict[bytes, FlavourName] = {b"vtrt": "tensorrt-rtx", b"ftrt": "tensorrt", b"ptrt": "tensorrt"}

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


def install_line(name: FlavourName) -> str:
    """Return what to do to get a flavour."""
    line = f"pip install 'mmtrt[{_EXTRAS[name]}]'"
    if name == "tensorrt":
        line += "; on a Jetson it comes with JetPack: make the venv with --system-site-packages"
    return line


def import_flavour(name: FlavourName) -> Any:
    """Import a flavour's module; MachineError where it is not installed or its libraries do not load."""
    try:
        return importlib.import_module(MODULES[name])
    except ModuleNotFoundError as error:
        if error.name != MODULES[name]:
            raise MachineError(
                f"{LABELS[name]} does not load: {error}", fix=f"Install it anew: {install_line(name)}"
            ) from error
        raise MachineError(f"{LABELS[name]} is not installed", fix=install_line(name)) from error
    except (ImportError, OSError, RuntimeError) as error:
        raise MachineError(
            f"{LABELS[name]} is installed but does not load: {error}",
            fix=f"Install it anew: {install_line(name)}",
        ) from error


def numpy_dtype(dtype: Any) -> str:
    """Return the numpy name of a TensorRT DataType; what numpy lacks keeps its own name, in small letters."""
    return _DTYPES.get(dtype.name, str(dtype.name).lower())


# ------------------------------------------------------------------------------------------------ logs

_KEPT = 200
_LAYERS = "Layers:"
_turns = threading.Lock()
_NOISE = "catchCudaError"
# Said of each second builder in a process, and of each model with token ids.
_IDLE = ("differs from one already registered", "has Int64 binding")


@dataclass(slots=True)
class Log:
    """What TensorRT said: errors and warnings in their order, and the block of final layers."""

    errors: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT))
    warnings: dict[str, None] = field(default_factory=dict)
    layers: str = ""

    def last_errors(self, count: int = 5) -> str:
        """Return the last errors, one a line; the driver's echo of each is left out where there is more."""
        told = [line for line in self.errors if _NOISE not in line] or list(self.errors)
        return "\n".join(told[-count:])


@cache
def logger_of(module: Any) -> Any:
    """Return this process's logger for a flavour.

    There is one, since TensorRT keeps the first logger that it is given and ignores all later ones. Nothing
    of what it hears goes to the terminal.
    """

    class Logger(module.ILogger):
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.listeners: tuple[Log, ...] = ()

        def log(self, severity: Any, message: str) -> None:
            """Keep errors, warnings and the layers; called from any thread."""
            for heard in self.listeners:
                if severity in {module.ILogger.INTERNAL_ERROR, module.ILogger.ERROR}:
                    heard.errors.append(message)
                elif severity == module.ILogger.WARNING:
                    if len(heard.warnings) < _KEPT and not any(idle in message for idle in _IDLE):
                        heard.warnings[message] = None
                elif message.startswith(_LAYERS):
                    heard.layers = message

    return Logger()


@contextmanager
def listening(module: Any) -> Iterator[Log]:
    """Give what a flavour says from here on, and only that; of threads that listen at once each hears all."""
    logger = logger_of(module)
    log = Log()
    with _turns:
        logger.listeners = (*logger.listeners, log)
    try:
        yield log
    finally:
        with _turns:
            logger.listeners = tuple(other for other in logger.listeners if other is not log)


# ------------------------------------------------------------------------------------------ plan files


def manifest_path(engine: Path) -> Path:
    """`<engine>.json`, beside the engine."""
    return engine.with_name(f"{engine.name}.json")


def manifest_data(engine: Path) -> dict[str, Any] | None:
    """Return the manifest beside an engine as plain data; None without one, InputError where it is broken."""
    path = manifest_path(engine)
    if not path.is_file():
        return None
    data = read_json(path)
    if not isinstance(data, dict) or data.get("schema") != MANIFEST_SCHEMA:
        raise InputError(f"{path} is no manifest of an engine ({MANIFEST_SCHEMA})", fix="Build the engine again.")
    wrong = [name for name, kind in _PARTS.items() if not isinstance(data.get(name) or kind(), kind)]
    if not wrong:
        rows = {name: data.get(name) or () for name in ("inputs", "outputs")}
        wrong = [name for name, tensors in rows.items() if not all(_tells_tensor(row) for row in tensors)]
    if wrong:
        raise InputError(f"{path} is broken: {wrong[0]!r} is not as mmtrt writes it", fix="Build the engine again.")
    return data


def _tells_tensor(row: object) -> bool:
    return isinstance(row, dict) and isinstance(row.get("name"), str) and isinstance(row.get("shape"), list)


def check_digest(engine: Path, digest: str, *, found: str | None = None) -> None:
    """Raise InputError where the engine is not the one that its manifest tells of; `found` is its digest, if known."""
    if (found or file_digest(engine)) != digest:
        raise InputError(
            f"{engine} was altered: its digest is not the one in {manifest_path(engine).name}",
            fix="Don't load it. Copy it again with its manifest, or build it again.",
        )


def read_header(engine: Path) -> bytes:
    """Return the first bytes of a plan; InputError where there is no file, or a shorter one."""
    try:
        with engine.open("rb") as stream:
            header = stream.read(HEADER_BYTES)
    except OSError as error:
        raise InputError(f"can't read the engine {engine}: {error.strerror}", fix="Check the path.") from error
    if len(header) < HEADER_BYTES:
        raise InputError(f"{engine} is no engine: it has {len(header)} bytes", fix="Build it again.")
    return header


def plan_flavour(engine: Path) -> FlavourName | None:
    """Say whose plan a file is, by its first bytes; None where they tell nothing. It is not deserialised."""
    return _MAGIC.get(read_header(engine)[:4])


def flavour_of(engine: Path) -> FlavourName:
    """Say whose plan a file is by its manifest, else by its header; InputError where neither knows."""
    found = plan_flavour(engine)
    told = (manifest_data(engine) or {}).get("flavor")
    if told in FLAVOURS:
        return FLAVOURS[FLAVOURS.index(told)]
    if found is None:
        raise InputError(
            f"{engine} is no engine that mmtrt knows: there is no manifest, and its header says nothing",
            fix="Build it with `mmtrt build`, which writes the manifest beside it.",
        )
    return found


def check_dtype(dtype: str, what: str) -> None:
    """Raise InputError for a type that numpy lacks, also where some other package has taught it."""
    if dtype not in _DTYPES.values() or dtype == "bfloat16":
        raise InputError(
            f"{what} is {dtype}, which numpy lacks",
            fix="Cast it to float32 or float16 at the model's border.",
        )
