from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path

import pytest

import mmtrt

# What no extra-less install has: the modules of the extras, by their top-level names.
EXTRAS = (
    "cryptography",
    "cuda",
    "matplotlib",
    "ml_dtypes",
    "model_signing",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "onnxscript",
    "polygraphy",
    "pycuda",
    "safetensors",
    "sympy",
    "tensorrt",
    "tensorrt_rtx",
    "threadpoolctl",
    "torch",
    "transformers",
)
# What the base install has, and `mmtrt --help` still does not wait for.
SLOW = ("numpy", "pydantic")

# The modules that need an extra at import. Every other one must do without: add to this list with care,
# an edge device has the base install and its TensorRT, nothing else.
NEED_EXTRAS = (
    # Layers and branches are found in ONNX graphs; of an engine's own table they are told without.
    "mmtrt.bench.branches",
    "mmtrt.bench.ort_*",
    "mmtrt.bundle.signing_model",
    "mmtrt.export.*",
    "mmtrt.onnx_files",
    "mmtrt.onnx_mapped",
    # The first bad layer is found in ONNX graphs.
    "mmtrt.parity.again",
    "mmtrt.parity.alignment",
    "mmtrt.parity.blame",
    "mmtrt.parity.locate",
    "mmtrt.parity.moving",
    "mmtrt.parity.probing",
    "mmtrt.parity.reducing",
    "mmtrt.parity.running",
    "mmtrt.parity.scales",
    "mmtrt.parity.segments",
    "mmtrt.parity.subgraphs",
    "mmtrt.parity.walking",
    "mmtrt.pipeline.bench_against",
    "mmtrt.pipeline.bench_builds",
    "mmtrt.pipeline.bench_layers",
    "mmtrt.pipeline.bench_kept",
    "mmtrt.pipeline.bench_recipe",
    "mmtrt.pipeline.benching",
    "mmtrt.pipeline.building",
    "mmtrt.pipeline.bundle_files",
    "mmtrt.pipeline.bundling",
    "mmtrt.pipeline.chain_check",
    "mmtrt.pipeline.check_sides",
    "mmtrt.pipeline.checking",
    "mmtrt.pipeline.deadline",
    "mmtrt.pipeline.engine_stage",
    "mmtrt.pipeline.exporting",
    "mmtrt.pipeline.golden_stage",
    "mmtrt.pipeline.hard_cases",
    "mmtrt.pipeline.inspecting",
    "mmtrt.pipeline.locating",
    "mmtrt.pipeline.parsing",
    "mmtrt.pipeline.parts_*",
    "mmtrt.pipeline.reached",
    "mmtrt.pipeline.recording",
    "mmtrt.pipeline.recipe_stages",
    "mmtrt.pipeline.replay",
    "mmtrt.pipeline.run",
    "mmtrt.pipeline.searching",
    "mmtrt.pipeline.sides",
    "mmtrt.pipeline.sources",
    "mmtrt.pipeline.stale",
    "mmtrt.pipeline.structure",
    "mmtrt.pipeline.telling",
    "mmtrt.pipeline.torch_sides",
    "mmtrt.pipeline.triton_*",
    "mmtrt.precision.*",
    "mmtrt.runtimes.eager",
    "mmtrt.runtimes.halves",
    "mmtrt.runtimes.ort",
    "mmtrt.runtimes.torch_*",
    "mmtrt.zoo.blocks.*",
    "mmtrt.zoo.checkpoints",
    "mmtrt.zoo.models.*",
    "mmtrt.zoo.train",
    "mmtrt.zoo.training.*",
    "mmtrt.zoo.weights",
)

ALL_MODULES = sorted(
    ".".join(("mmtrt", *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")
    for root in [Path(mmtrt.__file__).parent]
    for path in root.rglob("*.py")
)

# Imports each of the given modules and prints what failed: {module: [message, name of the missing module]}.
TRY_IMPORTS = """
import importlib, importlib.abc, json, sys

modules, blocked = json.loads(sys.argv[1]), set(json.loads(sys.argv[2]))

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r} (blocked)", name=name)

sys.meta_path.insert(0, Block())
failures = {}
for module in modules:
    try:
        importlib.import_module(module)
    except Exception as error:
        failures[module] = [f"{type(error).__name__}: {error}", getattr(error, "name", None) or ""]
print(json.dumps(failures))
"""


def in_fresh_python(code: str, *arguments: str) -> str:
    """The last line that `code` prints; its failure is the test's."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def failures(modules: Iterable[str], blocked: Iterable[str] = ()) -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads(
        in_fresh_python(TRY_IMPORTS, json.dumps(list(modules)), json.dumps(list(blocked)))
    )
    return found


@pytest.mark.parametrize(
    ("run", "unwanted"),
    [
        ("import mmtrt.cli.main", {*EXTRAS, *SLOW}),
        ("from mmtrt.cli.main import main; sys.argv = ['mmtrt', '--help']; main()", {*EXTRAS, *SLOW}),
        # Typer itself takes pydantic to read a command's options.
        ("from mmtrt.cli.main import main; sys.argv = ['mmtrt', 'build', '--help']; main()", {*EXTRAS, "numpy"}),
    ],
    ids=["import", "help", "build help"],
)
def test_command_line_loads_nothing_heavy(run: str, unwanted: set[str]) -> None:
    code = f"""
import json, sys
try:
    {run}
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""
    loaded = set(json.loads(in_fresh_python(code)))

    assert "mmtrt" in loaded
    assert loaded & unwanted == set()


def test_base_install_imports_all_but_the_listed_modules() -> None:
    failed = failures(ALL_MODULES, blocked=EXTRAS)

    assert {name: why for name, why in failed.items() if not any(fnmatch(name, p) for p in NEED_EXTRAS)} == {}
    assert [p for p in NEED_EXTRAS if not any(fnmatch(name, p) for name in failed)] == [], "these need none"


def test_every_module_imports_with_the_extras() -> None:
    found = failures(ALL_MODULES)
    # What is not on this machine at all can't be imported; anything else that fails is ours.
    absent = {name for name in EXTRAS if find_spec(name) is None}
    wanting = {module: top for module, (_, name) in found.items() if (top := name.partition(".")[0]) in absent}

    assert {module: why for module, why in found.items() if module not in wanting} == {}
    if wanting:
        libraries = ", ".join(sorted(set(wanting.values())))
        pytest.skip(f"{len(wanting)} of {len(ALL_MODULES)} modules not imported: no {libraries} on this machine")
