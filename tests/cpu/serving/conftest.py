"""What the tests of model repositories share: repositories made of the test models, in one cache."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

if TYPE_CHECKING:
    from mmtrt.pipeline.triton_repository import TritonResult

if not os.environ.get("CI"):
    # In CI these tests are never left out: it has the client.
    pytest.importorskip("tritonclient.grpc", reason="needs tritonclient and grpcio, of the extra dev")

TINY = """
[model]
source = "tiny_fusion:factory"

[precision]
build = ["fp32", "int8"]
coverage = "wide"

[calibration]
count = 40

[parity]
stress = ["corner"]

[parity.budget.int8]
sqnr_db = 15

[triton]
preferred_batch = [4]
max_queue_delay_us = 500
"""

PARTS = """
[model]
source = "parts_fusion:{source}"

[precision]
build = ["fp32"]

[calibration]
count = 8

[parity]
count = 8
stress = []
"""

Serve = Callable[..., "TritonResult"]


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Serve:
    """Put what a recipe makes into a repository: `serve(text, repository, name)`."""
    from mmtrt.artifacts import StageCache
    from mmtrt.pipeline.context import Context
    from mmtrt.pipeline.triton_repository import serve_recipe
    from mmtrt.recipe import load_recipe

    context = Context(cache=StageCache(shared_cache))

    def run(text: str, repository: Path, name: str = "tiny") -> TritonResult:
        recipe = tmp_path_factory.mktemp("recipe") / f"{name}.toml"
        recipe.write_text(text, encoding="utf-8")
        return serve_recipe(context, load_recipe(recipe), repository)

    return run


@pytest.fixture(scope="session")
def example() -> Callable[[str], object]:
    """Load a script of examples/triton."""

    def load(name: str) -> object:
        path = Path(__file__).parents[3] / "examples" / "triton" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"triton_{name}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
