"""Each name of cuda-core, pycuda and nvidia-ml-py that mmtrt uses is in each version that it supports."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mmtrt

SOURCES = Path(mmtrt.__file__).parent
TABLE: dict[str, Any] = json.loads(Path(__file__).with_name("package_names.json").read_text(encoding="utf-8"))

# What an expression of a file is, as the table names it; "" is the package's module itself.
CORE = {
    "core": "",
    "self._gpu": "Device",
    "core.Device(device)": "Device",
    "self._gpu.properties": "DeviceProperties",
    "self._streams[stream]": "Stream",
    "self._events[event]": "Event",
    "self._events[stop]": "Event",
}
PYCUDA = {
    "driver": "",
    "self._api": "",
    "gpu": "Device",
    "driver.device_attribute": "device_attribute",
    "attributes": "device_attribute",
    "self._context": "Context",
    "self._streams[stream]": "Stream",
    "self._events[event]": "Event",
    "self._events[start]": "Event",
    "self._host[buffer.ctypes.data]": "HostPointer",
}
NVML = {"api": "", "self._api": ""}
USES = {
    "runtimes/cuda/core.py": ("cuda-core", CORE, 10),
    "runtimes/cuda/pycuda.py": ("pycuda", PYCUDA, 15),
    "bench/nvml.py": ("nvidia-ml-py", NVML, 5),
}


# Tried first, with the other in the same file for versions that lack it.
TRIED = {"nvmlDeviceGetTemperatureV": "nvmlDeviceGetTemperature"}


def used(tree: ast.AST, kinds: dict[str, str]) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = kinds.get(ast.unparse(node.value))
            if owner is not None:
                yield f"{owner}.{node.attr}" if owner else node.attr, node.lineno


def guarded(tree: ast.AST) -> set[str]:
    """The names that a `hasattr` or a `getattr` with a default asks for."""
    return {
        node.args[1].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in {"hasattr", "getattr"}
        and (node.func.id == "hasattr" or len(node.args) == 3)
        and isinstance(node.args[1], ast.Constant)
    }


def lacking(source: str, package: str, kinds: dict[str, str]) -> list[str]:
    tree = ast.parse(source)
    names, here = TABLE[package]["names"], {name for name, _ in used(tree, kinds)}
    known = guarded(tree) | {name for name, other in TRIED.items() if other in here and names.get(other) == "all"}
    return [
        f"line {line}: {package} {name} is in {names.get(name, 'no version')}"
        for name, line in used(tree, kinds)
        if names.get(name) != "all" and name.rpartition(".")[2] not in known
    ]


@pytest.mark.parametrize("path", USES)
def test_each_version_has_each_name_that_is_used(path: str) -> None:
    if not (SOURCES / path).is_file():
        pytest.skip(f"there is no {path}")
    package, kinds, least = USES[path]
    source = (SOURCES / path).read_text(encoding="utf-8")
    assert len({name for name, _ in used(ast.parse(source), kinds)}) >= least
    assert lacking(source, package, kinds) == []


def test_a_name_that_a_version_lacks_is_a_fault_unless_it_is_tested_for() -> None:
    assert TABLE["cuda-core"]["names"]["Stream.is_closed"] == ["1.2.2"]
    kinds = {"stream": "Stream"}
    assert len(lacking("stream.is_closed", "cuda-core", kinds)) == 1
    assert len(lacking("stream.nothing", "cuda-core", kinds)) == 1
    assert lacking("stream.sync", "cuda-core", kinds) == []
    assert lacking("hasattr(stream, 'is_closed') and stream.is_closed", "cuda-core", kinds) == []


def test_the_table_is_what_the_installed_cuda_core_says() -> None:
    core = pytest.importorskip("cuda.core", reason="cuda-core is not installed")
    if core.__version__ not in TABLE["cuda-core"]["versions"]:
        pytest.skip(f"cuda-core {core.__version__} is not in the table")
    names = {name for name, found in TABLE["cuda-core"]["names"].items() if found == "all" or core.__version__ in found}
    here = {f"Stream.{part}" for part in dir(core.Stream) if not part.startswith("_")}
    assert here == {name for name in names if name.startswith("Stream.")}
