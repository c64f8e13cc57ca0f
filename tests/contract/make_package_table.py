"""Makes `package_names.json` again: the names of cuda-core, pycuda and nvidia-ml-py, version by version.

    python tests/contract/make_package_table.py

It needs Linux on x86-64, pip, a Python that the wheels are made for, and cuda-bindings installed; no GPU. cuda-core is
compiled, so it is imported and asked, each version in a process of its own; nothing of it is called. pycuda can't be
built without a CUDA toolkit: its names are read from its sources, nvidia-ml-py's too, which is one Python file.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TABLE = Path(__file__).with_name("package_names.json")
VERSIONS = {
    "cuda-core": ("1.0.1", "1.1.1", "1.2.2"),
    "pycuda": ("2024.1", "2026.1"),
    "nvidia-ml-py": ("12.560.30", "13.615.71"),
}
_PART = r'\.(?:def|add_property|value|def_readonly)\("(\w+)"|DEF_SIMPLE_METHOD(?:_WITH_ARGS)?\((\w+)|attr\("(\w+)"\)'
_PROGRAM = """
import json, cuda.core as core
found = {"__version__"}
for name, value in vars(core).items():
    if not name.startswith("_"):
        found.add(name)
        if isinstance(value, type):
            found.update(f"{name}.{part}" for part in dir(value) if not part.startswith("_"))
properties = type(core.Device).__module__ and __import__("cuda.core._device", fromlist=["x"]).DeviceProperties
found.update(f"DeviceProperties.{part}" for part in dir(properties) if not part.startswith("_"))
print(json.dumps([core.__version__, sorted(found)]))
"""


def _fetched(package: str, version: str, folder: Path) -> Path:
    source = ("--no-binary", ":all:", "--no-build-isolation") if package == "pycuda" else ()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *source, "-d", str(folder)]
    subprocess.run([*command, f"{package}=={version}"], check=True)
    (found,) = (path for path in folder.iterdir() if path.name.endswith((".whl", ".tar.gz")))
    # A package of the index, which pip would unpack too.
    shutil.unpack_archive(found, folder, "zip" if found.suffix == ".whl" else "gztar")
    return folder


def cuda_core(folder: Path, version: str) -> list[str]:
    """Return `Device.create_stream` and so on, of a wheel's own modules."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env={**os.environ, "PYTHONPATH": str(folder)},
        check=True,
        capture_output=True,
        text=True,
    )
    found, names = json.loads(done.stdout)
    if found != version:
        raise SystemExit(f"cuda-core {found} was imported, not {version}")
    return list(names)


def pycuda(folder: Path, _: str) -> list[str]:
    """Return the names of `pycuda.driver`: its wrapper's in C++, and what the module adds in Python."""
    (sources,) = folder.glob("pycuda-*/")
    wrapper = (sources / "src" / "wrapper" / "wrap_cudadrv.cpp").read_text(encoding="utf-8")
    found = set(re.findall(r"(?:py::def\(|DEF_SIMPLE_FUNCTION(?:_WITH_ARGS)?\()\s*\"?(\w+)", wrapper))
    found |= {
        name for pair in re.findall(r'DECLARE_EXC\((\w+)|py::scope\(\)\.attr\("(\w+)"\)', wrapper) for name in pair
    }
    owner = ""
    for line in wrapper.splitlines():
        if "typedef" in line:
            owner = ""
        made = re.search(r'(?:class_<.*?>|wrp|cls|enum_<\w+>)?\s*\(?"(\w+)"\s*,\s*py::(?:no_init|init)', line)
        enum = re.search(r'(?:class_|enum_)<.*?>+\s*(?:cls|wrp)?\s*\(\s*"(\w+)"', line)
        if made or enum:
            owner = (made or enum)[1]  # type: ignore[index]
            found.add(owner)
        part = re.search(_PART, line)
        if part and owner:
            found.add(f"{owner}.{part[1] or part[2] or part[3]}")
    tree = ast.parse((sources / "pycuda" / "driver.py").read_text(encoding="utf-8"))
    found |= {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    return sorted(found - {""})


def nvidia_ml_py(folder: Path, _: str) -> list[str]:
    """Return the functions and constants of `pynvml`, and the fields of its structures."""
    text = (folder / "pynvml.py").read_text(encoding="utf-8")
    found = set(re.findall(r"^def (nvml\w+)|^(NVML_\w+)\s*=|^class (\w+)", text, re.MULTILINE))
    return sorted({name for row in found for name in row if name})


READERS = {"cuda-core": cuda_core, "pycuda": pycuda, "nvidia-ml-py": nvidia_ml_py}


def main() -> None:
    """Write the table, a line a name."""
    table: dict[str, dict[str, list[str]]] = {}
    for package, versions in VERSIONS.items():
        names = table[package] = {}
        for version in versions:
            with tempfile.TemporaryDirectory() as folder:
                for name in READERS[package](_fetched(package, version, Path(folder)), version):
                    names.setdefault(name, []).append(version)
    parts = []
    for package, names in table.items():
        every = list(VERSIONS[package])
        rows = ",\n".join(
            f"{json.dumps(name)}: {json.dumps('all' if found == every else found)}"
            for name, found in sorted(names.items())
        )
        parts.append(f'{json.dumps(package)}: {{"versions": {json.dumps(every)}, "names": {{\n{rows}\n}}}}')
    TABLE.write_text("{" + ",\n".join(parts) + "}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
