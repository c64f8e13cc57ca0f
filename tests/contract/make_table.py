"""Makes `tensorrt_names.json` again: each name of TensorRT's bindings, with its signature, version by version.

    python tests/contract/make_table.py

To follow a new release, add its wheel to `WHEELS` and run it. It needs Linux on x86-64 with `gcc`, `nm`, `readelf`
and pip, a Python that the wheels are made for, and TensorRT-RTX installed. No GPU and no TensorRT is needed: the
bindings' wheel holds one extension module, and the few functions that it asks of TensorRT's libraries come from empty
libraries compiled here. So the names and signatures are read from the module itself, and nothing of it is called.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

TABLE = Path(__file__).with_name("tensorrt_names.json")
WHEELS = {
    "10.3": "tensorrt-cu12-bindings==10.3.0",
    "10.13": "tensorrt-cu12-bindings==10.13.0.35",
    "10.16": "tensorrt-cu12-bindings==10.16.0.72",
    "11.4": "tensorrt-cu13-bindings==11.4.0.106",
}
RTX = "RTX 1.7"
_LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin")


# ------------------------------------------------------------------------------------- in a process of its own


def describe(module: ModuleType) -> dict[str, str]:
    """Return each public name of the bindings, dotted, with what it is: its signatures, or its kind."""
    found = {"__version__": "value"}
    for name, value in vars(module).items():
        if name.startswith("_") or isinstance(value, ModuleType):
            continue
        found.update(_described(name, value))
    return dict(sorted(found.items()))


def _described(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(value, type):
        yield path, _kind(value)
        return
    base = value.__mro__[1]
    yield path, f"class({_bare(base)})" if base.__module__.startswith("tensorrt") else "class"
    members = getattr(value, "__members__", {})
    for name, part in vars(value).items():
        if name in members:
            yield f"{path}.{name}", "member"
        elif name == "__init__" or not name.startswith("_"):
            yield from _described(f"{path}.{name}", part)


def _bare(kind: type) -> str:
    return kind.__qualname__


def _kind(value: Any) -> str:
    """Return `(flags: int = 0) -> INetworkDefinition`, one a line; for data, its type and whether it can be set."""
    if isinstance(value, property):
        told = re.search(r"-> (.*)", value.fget.__doc__ or "")
        kind = "read-only property" if value.fset is None else "property"
        return f"{kind} -> {_plain(told[1]) if told else 'object'}"
    if callable(value):
        lines = (value.__doc__ or "").splitlines()
        signatures = [found[1] for line in lines if (found := re.match(r"(?:\d+\. )?\w+(\(.*\) -> .*)", line))]
        # A function of Python's own has no such line.
        return "\n".join(_plain(line) for line in signatures) or "callable"
    return f"value -> {_bare(type(value))}" if type(value).__module__.startswith("tensorrt") else "value"


# Two releases of pybind11 write one type in two ways.
_SPELLINGS = (
    (r"\b(?:tensorrt\w*\.|nvinfer1::|nvonnxparser::|v_1_0::)+(?=[A-Za-z_])", ""),
    (r"^\((?:self|arg0): [\w.]+(?:, )?", "("),
    (r"\btyping\.SupportsInt\b", "int"),
    (r"\btyping\.SupportsFloat\b", "float"),
    (r"\btyping_extensions\.Buffer\b", "buffer"),
    (r"\b(?:collections\.abc|typing)\.", ""),
    (r"\b(List|Dict|Tuple|Set)(?=\[)", lambda found: found[1].lower()),
    (r" = <[^>]*>", " = ..."),
)


def _plain(signature: str) -> str:
    """Leave out where each type is from, and `self`; write each type in one way."""
    for pattern, spelling in _SPELLINGS:
        signature = re.sub(pattern, spelling, signature)
    return signature


# ------------------------------------------------------------------------------------------------- making it


def _unpacked(requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder), requirement]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder)
    return next(folder.glob("*_bindings"))


def _output(program: str, *arguments: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise SystemExit(f"there is no {program} here: install the compiler's package")
    return subprocess.run([path, *arguments], check=True, capture_output=True, text=True).stdout


def _stub_libraries(bindings: Path) -> None:
    """Compile what the extension module needs to load: libraries whose functions are never called."""
    extension = str(next(bindings.glob("*.so")))
    wanted = re.findall(
        r" U ((?:create|get|init)\w*(?:_INTERNAL|Registry|ParserVersion|Plugins))$",
        _output("nm", "-D", extension),
        re.MULTILINE,
    )
    source = bindings / "stub.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in wanted), encoding="utf-8")
    for library in re.findall(rf"\[(lib(?:{'|'.join(_LIBRARIES)})\.so\.\d+)\]", _output("readelf", "-d", extension)):
        _output("gcc", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", str(bindings / library), str(source))


def _asked(module: str, **environment: str) -> tuple[str, dict[str, str]]:
    """Import a module in a process of its own; return its version and its names."""
    program = (
        f"import json, {module} as trt; from make_table import describe; "
        "print(json.dumps([trt.__version__, describe(trt)]))"
    )
    path = os.pathsep.join(filter(None, (str(TABLE.parent), environment.pop("PYTHONPATH", ""))))
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment, "PYTHONPATH": path},
        check=True,
        capture_output=True,
        text=True,
    )
    version, names = json.loads(done.stdout)
    return version, names


def collect() -> dict[str, tuple[str, dict[str, str]]]:
    """Return the full version and the names of each release, by its short label."""
    found = {}
    for label, requirement in WHEELS.items():
        with tempfile.TemporaryDirectory() as name:
            bindings = _unpacked(requirement, Path(name))
            _stub_libraries(bindings)
            found[label] = _asked(bindings.name, PYTHONPATH=name, LD_LIBRARY_PATH=str(bindings))
    return found | {RTX: _asked("tensorrt_rtx")}


def merged(releases: dict[str, tuple[str, dict[str, str]]]) -> dict[str, dict[str, Any]]:
    """Return `{name: {signature: labels}}`, labels `all` where each release has it."""
    table: dict[str, dict[str, Any]] = {}
    for label, (_, names) in releases.items():
        for name, kind in names.items():
            table.setdefault(name, {}).setdefault(kind, []).append(label)
    every = list(releases)
    return {
        name: {kind: "all" if labels == every else labels for kind, labels in kinds.items()}
        for name, kinds in sorted(table.items())
    }


def main() -> None:
    """Write the table, a line a name."""
    releases = collect()
    versions = {label: version for label, (version, _) in releases.items()}
    rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(kinds)}" for name, kinds in merged(releases).items())
    TABLE.write_text(f'{{"versions": {json.dumps(versions)},\n"names": {{\n{rows}\n}}}}\n', encoding="utf-8")
    counts = ", ".join(f"{label} ({len(names)} names)" for label, (_, names) in releases.items())
    print(f"{TABLE.name}: {counts}")  # noqa: T201


if __name__ == "__main__":
    main()
